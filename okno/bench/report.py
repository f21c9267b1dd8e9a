"""Figures as Markdown that says where they come from: machine, versions, command, revision."""

from __future__ import annotations

import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from okno.inspect.cpu import usable_cores


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest observed value that `percent` % of the values do not exceed (nearest rank);
    NaN without values."""
    if not values:
        return math.nan
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right."""
    lines = [
        _line(header),
        _line(["---", *["---:"] * (len(header) - 1)]),
        *(_line([str(cell) for cell in row]) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def environment() -> str:
    """A Markdown list: machine, versions, the command that is running."""
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    return "\n".join(f"- {line}" for line in (machine(), versions(), f"`{command}`")) + "\n"


def machine() -> str:
    """Processor, cores this process may use, memory, system."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{processor()}, {usable_cores()} cores, {memory_gib:.0f} GiB memory, "
        f"{platform.system()} {platform.release()}"
    )


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name, with family and model where Linux tells them: virtual machines
    hide the name."""
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in cpuinfo.read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    name = facts.get("model name", platform.machine())
    family, model = facts.get("cpu family"), facts.get("model")
    return f"{name} (family {family} model {model})" if family and model else name


def versions() -> str:
    """okno's version and revision, the engine binding and Python."""
    return (
        f"okno {version('okno')} ({revision()}), "
        f"llama-cpp-python {version('llama-cpp-python')}, Python {platform.python_version()}"
    )


def revision() -> str:
    """The git revision of this checkout, `+` for local changes to what git tracks."""
    here = Path(__file__).parent
    found = _git(here, "rev-parse", "--short", "HEAD")
    if found is None:
        return "no git"
    return found + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def publish(text: str, out: Path | None) -> None:
    """Print `text`, and write it to `out` when given."""
    sys.stdout.write(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
