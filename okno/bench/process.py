"""What a process holds: memory, descriptors, threads."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Held:
    """anonymous_bytes: RssAnon + VmSwap, the memory that is the process's own (no file pages)."""

    anonymous_bytes: int
    descriptors: int
    threads: int

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
