from __future__ import annotations

from dataclasses import replace

import pytest

from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.plan.memory_beside import fits_beside


def plan(kv: int, free: int, **more: object) -> MemoryPlan:
    """Weights 100, a context of kv + 10, process 5."""
    parts = MemoryParts(weights_bytes=100, kv_bytes=kv, compute_bytes=10, process_bytes=5)
    return MemoryPlan((DeviceMemory("cpu", parts, free),), "engine", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("free", "fits"), [(205, True), (204, False)])
def test_weights_count_once_and_states_travel_through_main_memory(free: int, fits: bool) -> None:
    # 100 + 5, contexts of 20 + 10 and 40 + 10, states of at most 20 between them
    assert fits_beside(plan(40, free), plan(20, free)) is fits
    assert fits_beside(plan(20, free), plan(40, free)) is fits


def test_the_margin_of_the_prediction_is_kept() -> None:
    assert fits_beside(plan(40, 215, margin_bytes=10), plan(20, 215))
    assert not fits_beside(plan(40, 214, margin_bytes=10), plan(20, 214))


def on_gpu(kv: int, free: int, *, unified: bool) -> MemoryPlan:
    parts = MemoryParts(weights_bytes=100, kv_bytes=kv)
    gpu = DeviceMemory("GPU0", parts, free, unified)
    return MemoryPlan((DeviceMemory("cpu", MemoryParts(process_bytes=5), 300), gpu), "engine")


def test_each_device_needs_room_for_both() -> None:
    assert fits_beside(on_gpu(40, 160, unified=False), on_gpu(20, 160, unified=False))
    assert not fits_beside(on_gpu(40, 159, unified=False), on_gpu(20, 159, unified=False))


def test_a_unified_device_takes_main_memory() -> None:
    def with_free(plan: MemoryPlan, free: int) -> MemoryPlan:
        cpu, gpu = plan.devices
        return replace(plan, devices=(replace(cpu, free_bytes=free), gpu))

    new, old = on_gpu(40, 999, unified=True), on_gpu(20, 999, unified=True)
    # process 5, weights 100, KV 40 and 20, states 20
    assert fits_beside(with_free(new, 185), with_free(old, 185))
    assert not fits_beside(with_free(new, 184), with_free(old, 184))
