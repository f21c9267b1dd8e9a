"""What a process holds: memory, descriptors, threads."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, fields
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Held:
    """anonymous_bytes: RssAnon + VmSwap, the memory that is the process's own (no file pages)."""

    anonymous_bytes: int
    descriptors: int
    threads: int

    def __add__(self, other: Held) -> Held:
        return Held(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Held)))

    def most(self, other: Held) -> Held:
        """The greater of each figure."""
        return Held(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(Held)))


def held(pid: int, proc: Path = Path("/proc")) -> Held:
    """What process `pid` holds now (Linux). Raises OSError when it is gone."""
    folder = proc / str(pid)
    status = dict(
        line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
    )
    kilobytes = sum(int(status[key].split()[0]) for key in ("RssAnon", "VmSwap"))
    return Held(kilobytes * 1024, len(os.listdir(folder / "fd")), int(status["Threads"]))


def held_with_children(pid: int) -> Held:
    """What process `pid` and all its descendants hold together. One that ends meanwhile counts as
    nothing; OSError when `pid` itself is gone."""
    total = held(pid)
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += held(child.pid)
    return total
