from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from okno.bench.process import Held, held, held_with_children


def test_an_open_file_is_one_more_descriptor(tmp_path: Path) -> None:
    before = held(os.getpid())
    with (tmp_path / "file").open("wb"):
        assert held(os.getpid()).descriptors == before.descriptors + 1
    assert held(os.getpid()).descriptors == before.descriptors


def test_memory_is_what_is_anonymous_in_ram_and_swapped_out(tmp_path: Path) -> None:
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "status").write_text(
        "Name:\tokno\nVmRSS:\t 900 kB\nRssAnon:\t 100 kB\nVmSwap:\t 20 kB\nThreads:\t3\n"
    )
    assert held(7, proc=tmp_path) == Held(120 * 1024, 0, 3)


def test_the_peak_takes_the_greater_of_each() -> None:
    assert Held(1, 5, 2).most(Held(3, 4, 2)) == Held(3, 5, 2)


def test_a_process_that_is_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        held(2**30)


def test_children_are_counted_with_their_parent() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        alone, together = held(os.getpid()), held_with_children(os.getpid())
        assert together.threads == alone.threads + 1
        child.communicate()
