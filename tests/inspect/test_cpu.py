from __future__ import annotations

import math
import os
from pathlib import Path

from okno.inspect.cpu import cgroup_quota, parse_cpu_max, usable_cores


def test_a_quota_is_cores() -> None:
    assert parse_cpu_max("200000 100000\n") == 2.0
    assert parse_cpu_max("50000 100000") == 0.5
    assert parse_cpu_max("max 100000") == math.inf


def test_the_smallest_quota_of_the_ancestors_holds(tmp_path: Path) -> None:
    group = tmp_path / "fs" / "a" / "b"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000")
    (group.parent / "cpu.max").write_text("150000 100000")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert cgroup_quota(membership, tmp_path / "fs") == 1.5


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "missing", tmp_path) == math.inf


def test_at_least_one_core_and_no_more_than_allowed() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
