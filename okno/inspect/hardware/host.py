"""How probes reach the machine: its programs, its files, its environment. Tests give their own."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from okno.inspect.memory import Read, read_text

TIMEOUT_S = 5.0  # of one program: a driver that hangs must not hang us
MAX_OUTPUT_CHARS = 4 << 20
Call = Callable[[Sequence[str]], str | None]
ListFolder = Callable[[PurePosixPath], list[str]]


class NotReadable(Exception):
    """A source of facts is there and gives no answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """os: `Linux`, `Darwin`, `Windows`. call: a program's output, None when it is not installed;
    raises NotReadable. read: a file's text, None when it is not there. list_folder: names in a
    folder, sorted; none when it is not there."""

    os: str
    machine: str
    call: Call
    read: Read = lambda path: None
    list_folder: ListFolder = lambda path: []
    environment: Mapping[str, str] = field(default_factory=dict)


def this_host() -> Host:
    """The machine we run on."""
    return Host(
        platform.system(), platform.machine(), call_program, read_text, names_in, os.environ
    )


def call_program(args: Sequence[str]) -> str | None:
    """What the program `args` prints (stdin empty, C locale). None: it is not installed.

    Raises NotReadable when it does not answer within TIMEOUT_S, fails, or cannot be started. A
    failure that still printed something on stdout counts as an answer for `sysctl`, which ends
    with 1 when one of several names is unknown.
    """
    path = shutil.which(args[0])
    if path is None:
        return None
    name = args[0]
    try:
        done = subprocess.run(
            [path, *args[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotReadable(f"{name} did not answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise NotReadable(f"{name} cannot be started: {error.strerror or error}") from None
    text = done.stdout.decode(errors="replace")[:MAX_OUTPUT_CHARS]
    if done.returncode != 0 and not (name == "sysctl" and text):
        said = text + done.stderr.decode(errors="replace")
        raise NotReadable(f"{name} failed with status {done.returncode}: {first_line(said)}")
    return text


def first_line(text: str, limit: int = 160) -> str:
    """The first line that says something, shortened, fit to print."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it said nothing")
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= limit else line[:limit] + "…"


def names_in(folder: PurePosixPath) -> list[str]:
    """The names in a folder; none if it is not there or may not be read."""
    try:
        return sorted(entry.name for entry in Path(folder).iterdir())
    except OSError:
        return []
