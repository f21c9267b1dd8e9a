"""Free memory, from text as Linux writes it; HYBRID is captured whole from a machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import PurePosixPath

import psutil
from hypothesis import given
from hypothesis import strategies as st

from okno.inspect.memory import (
    CgroupMount,
    FreeMemory,
    ancestors,
    free_in_v1,
    free_in_v2,
    free_memory,
    memory_from,
    memory_limit,
    parse_cgroups,
    parse_limits,
    parse_meminfo,
    parse_mounts,
)

GIB = 1 << 30
MEMINFO = """MemTotal:       16337676 kB
MemFree:         1205412 kB
MemAvailable:   11534336 kB
Buffers:          391020 kB
Cached:          9512132 kB
"""
V2_MOUNTS = """22 28 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""
V1_MOUNTS = """36 32 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
41 32 0:36 /docker/4f2a /sys/fs/cgroup/memory ro,nosuid master:20 - cgroup cgroup rw,memory
"""
V1_CGROUP = """12:cpu,cpuacct:/docker/4f2a
7:memory:/docker/4f2a
0::/system.slice/containerd.service
"""

HYBRID_CGROUP = """9:name=systemd:/
8:pids:/
7:blkio:/
6:freezer:/
5:devices:/
4:memory:/process_api/b12b3226
3:cpuset:/
2:cpuacct:/
1:cpu:/
0::/
"""
HYBRID_MOUNTS = """31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def reader(table: dict[str, str]):
    return lambda path: table.get(str(path))


def machine(**more: str) -> dict[str, str]:
    return {"/proc/meminfo": MEMINFO, **more}


def test_without_cgroups_the_machine_is_the_bound():
    assert memory_from(reader(machine())) == FreeMemory(11 * GIB, "machine")


def test_without_proc_there_is_no_answer():
    assert memory_from(reader({})) is None


def test_meminfo_of_an_old_kernel_has_no_answer():
    assert parse_meminfo("MemTotal: 5 kB\nMemFree: 4 kB\n") is None


def v2(table: dict[str, str]) -> FreeMemory | None:
    base = {
        "/proc/self/cgroup": "0::/user.slice/user-1000.slice/run-7.scope\n",
        "/proc/self/mountinfo": V2_MOUNTS,
    }
    return memory_from(reader(machine(**base, **table)))


def test_a_limit_of_our_own_cgroup_bounds():
    folder = "/sys/fs/cgroup/user.slice/user-1000.slice/run-7.scope"
    answer = v2({f"{folder}/memory.max": f"{4 * GIB}\n", f"{folder}/memory.current": f"{GIB}\n"})
    assert answer == FreeMemory(3 * GIB, folder)


def test_a_limit_of_an_ancestor_bounds_too():
    own = "/sys/fs/cgroup/user.slice/user-1000.slice/run-7.scope"
    above = "/sys/fs/cgroup/user.slice"
    answer = v2(
        {
            f"{own}/memory.max": "max\n",
            f"{own}/memory.current": "1000\n",
            f"{above}/memory.max": f"{2 * GIB}\n",
            f"{above}/memory.current": f"{GIB // 2}\n",
        }
    )
    assert answer == FreeMemory(2 * GIB - GIB // 2, above)


def test_a_generous_limit_leaves_the_machine_as_the_bound():
    own = "/sys/fs/cgroup/user.slice/user-1000.slice/run-7.scope"
    answer = v2({f"{own}/memory.max": str(64 * GIB), f"{own}/memory.current": "0"})
    assert answer == FreeMemory(11 * GIB, "machine")


def test_a_container_sees_its_limit_at_the_root_of_its_namespace():
    answer = memory_from(
        reader(
            machine(
                **{
                    "/proc/self/cgroup": "0::/\n",
                    "/proc/self/mountinfo": V2_MOUNTS,
                    "/sys/fs/cgroup/memory.max": f"{GIB}\n",
                    "/sys/fs/cgroup/memory.current": "0\n",
                }
            )
        )
    )
    assert answer == FreeMemory(GIB, "/sys/fs/cgroup")


def test_v1_in_docker_reads_the_limit_at_the_mount_point():
    answer = memory_from(
        reader(
            machine(
                **{
                    "/proc/self/cgroup": V1_CGROUP,
                    "/proc/self/mountinfo": V1_MOUNTS,
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
                    "/sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
                    "/sys/fs/cgroup/memory/memory.stat": "cache 9\ntotal_inactive_file 4096\n",
                }
            )
        )
    )
    assert answer == FreeMemory(GIB + 4096, "/sys/fs/cgroup/memory")


def test_a_hybrid_machine_is_bounded_by_its_v1_memory_controller():
    answer = memory_from(
        reader(
            machine(
                **{
                    "/proc/self/cgroup": HYBRID_CGROUP,
                    "/proc/self/mountinfo": HYBRID_MOUNTS,
                    "/sys/fs/cgroup/memory/process_api/memory.limit_in_bytes": str(3 * GIB),
                    "/sys/fs/cgroup/memory/process_api/memory.usage_in_bytes": "0",
                }
            )
        )
    )
    assert answer == FreeMemory(3 * GIB, "/sys/fs/cgroup/memory/process_api")


def test_file_pages_count_as_free():
    stat = "anon 100\ninactive_file 300\nactive_file 50\nslab 9\n"
    assert free_in_v2("1000", "max", "600", stat) == 1000 - (600 - 350)


def test_memory_high_is_a_limit_as_well():
    assert free_in_v2("max", "800", "100", "") == 700
    assert free_in_v2("500", "800", "100", "") == 400


def test_no_limit_is_no_bound():
    assert free_in_v2("max", "max", "100", "") is None
    assert free_in_v2(None, None, None, "") is None
    assert free_in_v1("9223372036854771712", "100", "") is None


def test_a_full_cgroup_has_nothing_free_never_less():
    assert free_in_v2("1000", None, "1200", "") == 0
    assert free_in_v1("1000", "1200", "") == 0


def test_mixed_hierarchies_are_told_apart():
    assert parse_cgroups(V1_CGROUP) == {
        1: PurePosixPath("/docker/4f2a"),
        2: PurePosixPath("/system.slice/containerd.service"),
    }
    assert parse_mounts(V1_MOUNTS) == [
        CgroupMount(1, PurePosixPath("/docker/4f2a"), PurePosixPath("/sys/fs/cgroup/memory"))
    ]


def test_mount_points_with_spaces_are_unescaped():
    line = r"29 22 0:26 / /mnt/my\040groups rw shared:9 - cgroup2 cgroup2 rw"
    assert parse_mounts(line)[0].mount_point == PurePosixPath("/mnt/my groups")


def test_ancestors_end_at_the_mount_point_also_for_a_path_outside_it():
    mount = CgroupMount(2, PurePosixPath("/"), PurePosixPath("/cg"))
    walked = [str(folder) for folder in ancestors(mount, PurePosixPath("/a/b"))]
    assert walked == ["/cg/a/b", "/cg/a", "/cg"]
    assert [str(folder) for folder in ancestors(mount, PurePosixPath("/../x"))] == ["/cg"]


def test_this_machine_has_an_answer_within_its_memory():
    assert 0 < free_memory().free_bytes <= psutil.virtual_memory().total


V2_TWO_LEVELS = {
    "/proc/meminfo": MEMINFO,
    "/proc/self/cgroup": "0::/a/b\n",
    "/proc/self/mountinfo": V2_MOUNTS,
    "/sys/fs/cgroup/a/b/memory.max": "max\n",
    "/sys/fs/cgroup/a/b/memory.high": f"{5 * GIB}\n",
    "/sys/fs/cgroup/a/memory.max": f"{6 * GIB}\n",
}


def test_the_tightest_limit_of_the_ancestors_is_the_limit():
    assert memory_limit(reader(V2_TWO_LEVELS)) == 5 * GIB
    assert memory_limit(reader({"/proc/meminfo": MEMINFO})) is None


def test_a_v1_limit_that_means_none_is_none():
    folder = "/sys/fs/cgroup/memory"
    files = {
        "/proc/self/cgroup": V1_CGROUP,
        "/proc/self/mountinfo": V1_MOUNTS,
        f"{folder}/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert memory_limit(reader(files)) is None
    files[f"{folder}/memory.limit_in_bytes"] = "1000\n"
    assert memory_limit(reader(files)) == 1000


LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max data size             unlimited            unlimited            bytes
Max processes             96364                96364                processes
Max address space         4294967296           unlimited            bytes
"""


def test_limits_of_processes_are_bytes():
    assert parse_limits(LIMITS) == {"Max address space": 4 * GIB}


def test_a_process_limit_bounds_what_is_left_of_it():
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/limits": LIMITS,
        "/proc/self/status": "VmPeak:\t 2000000 kB\nVmSize:\t 1048576 kB\nVmData:\t 500 kB\n",
    }
    assert memory_from(reader(files)) == FreeMemory(3 * GIB, "RLIMIT_AS")


def test_a_real_process_under_ulimit_knows_it():
    code = (
        "from okno.inspect.memory import free_memory as f; m = f(); print(m.free_bytes, m.bound_by)"
    )
    said = subprocess.run(
        ["sh", "-c", 'ulimit -v 3000000; exec "$0" -c "$1"', sys.executable, code],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert said[1] == "RLIMIT_AS"
    assert 2 * GIB < int(said[0]) < 3_000_000 * 1024


@given(st.text(max_size=200))
def test_no_kernel_file_is_too_strange(text):
    answer = memory_from(lambda path: "MemAvailable: 1 kB\n" + text)
    assert answer is not None
    assert answer.free_bytes >= 0
    assert (memory_limit(lambda path: text) or 0) >= 0
    assert free_in_v1(text, text, text) is None or text.strip().isdigit()
