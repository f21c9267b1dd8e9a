"""How many threads computing may use here, and whether with AMX."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

from okno.inspect.memory import Read, cgroup_folders, read_text


def usable_cores() -> int:
    """Physical cores this process may run on, within its CPU affinity and the CPU quotas of the
    cgroups above it (v1 and v2); at least 1. Hyper-threads are not counted: matrix kernels gain
    nothing from them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False) or allowed or 1
    return max(1, math.ceil(min(allowed or 1, physical, cpu_quota(read_text))))


def machine_has_amx(cpuinfo: str | None = None) -> bool:
    """Whether this Linux machine offers AMX tiles; `cpuinfo` stands in for /proc/cpuinfo."""
    if cpuinfo is None:
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            return False
        cpuinfo = Path("/proc/cpuinfo").read_text()
    return any("amx_tile" in line.split() for line in cpuinfo.splitlines() if "flags" in line)


def cpu_quota(read: Read) -> float:
    """Cores allowed by the tightest cgroup above us; infinite without one."""
    return min(_quotas(read), default=math.inf)


def parse_cpu_max(text: str) -> float:
    """Cores allowed by a cgroup v2 `cpu.max` file: "200000 100000" is 2.0, "max ..." infinite."""
    quota, _, period = text.strip().partition(" ")
    return _cores(quota, period or "100000")


def _quotas(read: Read) -> Iterator[float]:
    for version, folder in cgroup_folders(read, "cpu"):
        if version == 2:
            yield parse_cpu_max(_text(read, folder, "cpu.max"))
        else:
            quota = _text(read, folder, "cpu.cfs_quota_us")
            yield _cores(quota, _text(read, folder, "cpu.cfs_period_us"))


def _text(read: Read, folder: PurePosixPath, name: str) -> str:
    return (read(folder / name) or "").strip()


def _cores(quota: str, period: str) -> float:
    """`max` and -1 are no limit, as is anything that is no number."""
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):
        return math.inf
    return int(quota) / int(period)
