from __future__ import annotations

import math
import os

from okno.inspect.cpu import cpu_quota, machine_has_amx, parse_cpu_max, usable_cores

V2_MOUNTS = "29 22 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"
V1_MOUNTS = "36 32 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"


def quota(files: dict[str, str]) -> float:
    return cpu_quota(lambda path: files.get(str(path)))


def test_a_quota_is_cores() -> None:
    assert parse_cpu_max("200000 100000\n") == 2.0
    assert parse_cpu_max("50000 100000") == 0.5
    assert parse_cpu_max("max 100000") == math.inf


def test_what_is_no_quota_limits_nothing() -> None:
    assert [parse_cpu_max(text) for text in ("", "0 100000", "x y", "1 0")] == [math.inf] * 4


def test_the_smallest_quota_of_the_ancestors_holds() -> None:
    assert quota({
        "/proc/self/cgroup": "0::/a/b\n",
        "/proc/self/mountinfo": V2_MOUNTS,
        "/sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/a/cpu.max": "150000 100000\n",
    }) == 1.5  # fmt: skip


def test_version_1_has_quota_and_period_in_two_files() -> None:
    folder = "/sys/fs/cgroup/cpu,cpuacct"
    files = {
        "/proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n4:memory:/\n0::/\n",
        "/proc/self/mountinfo": V1_MOUNTS,
        f"{folder}/docker/1/cpu.cfs_quota_us": "250000\n",
        f"{folder}/docker/1/cpu.cfs_period_us": "100000\n",
        f"{folder}/cpu.cfs_quota_us": "-1\n",
        f"{folder}/cpu.cfs_period_us": "100000\n",
    }
    assert quota(files) == 2.5


def test_without_cgroups_there_is_no_quota() -> None:
    assert quota({}) == math.inf


def test_at_least_one_core_and_no_more_than_allowed() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


WITH = "processor : 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n"
WITHOUT = "processor : 0\nmodel name : amx_tile\nflags\t\t: fpu avx512f amx_tiles\n"


def test_amx_is_seen_in_the_processor_flags() -> None:
    assert machine_has_amx(WITH)
    assert not machine_has_amx(WITHOUT)
