"""How many threads computing may use here."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil


def usable_cores() -> int:
    """Physical cores this process may run on, within its CPU affinity and cgroup v2 quota;
    at least 1. Hyper-threads are not counted: matrix kernels gain nothing from them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False) or allowed or 1
    quota = cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(allowed or 1, physical, quota)))


def parse_cpu_max(text: str) -> float:
    """Cores allowed by a cgroup v2 `cpu.max` file: "200000 100000" is 2.0, "max ..." infinite."""
    quota, _, period = text.strip().partition(" ")
    return math.inf if quota == "max" else int(quota) / int(period or 100_000)


def cgroup_quota(membership: Path, root: Path) -> float:
    """The smallest quota of this process's cgroup and its ancestors."""
    if not membership.exists():
        return math.inf
    own = next((line[3:] for line in membership.read_text().splitlines()
                if line.startswith("0::")), "/")  # fmt: skip
    group = root / own.lstrip("/")
    files = [place / "cpu.max" for place in (group, *group.parents) if place.is_relative_to(root)]
    return min((parse_cpu_max(f.read_text()) for f in files if f.exists()), default=math.inf)
