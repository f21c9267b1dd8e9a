"""What a worker says it holds: what is its own, and what it took of each accelerator."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.core.window import MemoryUse
from okno.engines.llamacpp import on_accelerators
from okno.inspect.memory import parse_own
from tests.engines.drive import DEMO, running, worker_pid

MIB = 1 << 20


def own_bytes_of(pid: int) -> int:
    return parse_own(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own memory")
async def test_pages_of_files_are_not_the_workers_own() -> None:
    async with running(DEMO, mmap=True) as supervisor:
        held = supervisor.status().memory
        own_bytes = own_bytes_of(worker_pid(supervisor))
    assert held is not None
    assert held.own_bytes == pytest.approx(own_bytes, abs=16 * MIB)
    assert held.own_bytes < held.process_bytes - 16 * MIB  # the engine's libraries are files too
    assert held.device_bytes == {}


def test_what_is_on_accelerators_is_told_by_their_ids() -> None:
    on_card = MemoryParts(weights_bytes=5, kv_bytes=3, compute_bytes=2, process_bytes=1)
    plan = MemoryPlan(
        (
            DeviceMemory("cpu", MemoryParts(weights_bytes=100)),
            DeviceMemory("CUDA0", on_card),
            DeviceMemory("CUDA1", MemoryParts(kv_bytes=7)),
        ),
        "engine",
    )
    assert on_accelerators(plan) == {"CUDA0": 11, "CUDA1": 7}


def test_it_crosses_the_process_boundary() -> None:
    held = MemoryUse(1, 2, 3, 4, 5, {"CUDA0": 6})
    sent = msgspec.msgpack.encode(held)
    assert msgspec.msgpack.decode(sent, type=MemoryUse) == held
