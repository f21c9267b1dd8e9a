"""The environment of a worker, seen from the inside of a process that has it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from okno.engines.process import with_huge_pages, worker_environment

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ALLOCATE = """
import ctypes, re
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 64 << 20
ctypes.memset(libc.malloc(ctypes.c_size_t(size)), 1, size)
found = re.search(r"AnonHugePages: *([0-9]+) kB", open("/proc/self/smaps_rollup").read())
print(found[1])
"""


def gives_huge_pages_when_asked() -> bool:
    """The kernel does, and the C library can ask (glibc 2.35)."""
    library, version = platform.libc_ver()
    return (
        THP.exists()
        and "[madvise]" in THP.read_text()
        and library == "glibc"
        and tuple(map(int, version.split("."))) >= (2, 35)
    )


@pytest.mark.skipif(not gives_huge_pages_when_asked(), reason="the kernel or C library has none")
def test_a_worker_has_its_large_allocations_in_huge_pages() -> None:
    told = subprocess.check_output(
        [sys.executable, "-c", ALLOCATE], env=worker_environment(), text=True
    )
    assert int(told) > 50 << 10


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("glibc.malloc.hugetlb=2:glibc.malloc.arena_max=2",) * 2,
    ],
)
def test_tunables_of_the_user_stay(given: str, made: str) -> None:
    assert with_huge_pages(given) == made
