"""What is too much: on each device alone, and of memory that two of them share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan

MEMORY = st.integers(0, 1000)


def a_plan(
    cpu: int, gpu: int, *, free: int | None = 1000, gpu_free: int | None = 1000,
    unified: bool = True, margin: int = 0,
) -> MemoryPlan:  # fmt: skip
    devices = (
        DeviceMemory("cpu", MemoryParts(weights_bytes=cpu), free),
        DeviceMemory("GPU0", MemoryParts(kv_bytes=gpu), gpu_free, unified),
    )
    return MemoryPlan(devices, "closed form", margin)


def test_memory_that_two_devices_share_is_promised_once() -> None:
    assert a_plan(400, 600).fits
    assert a_plan(500, 600, unified=False).fits
    assert a_plan(500, 600).over_bytes() == {"cpu": 100}
    assert not a_plan(500, 600).fits


def test_the_margin_and_the_room_of_the_system_count_once_in_the_pool() -> None:
    plan = a_plan(400, 500, margin=60)
    assert plan.over_bytes(40) == {}
    assert plan.over_bytes(41) == {"cpu": 1}


def test_each_device_has_its_own_bound_too() -> None:
    limited = a_plan(100, 600, gpu_free=500)  # such as Metal's working set
    assert limited.over_bytes() == {"GPU0": 100}
    assert a_plan(700, 600, gpu_free=500).over_bytes() == {"cpu": 300, "GPU0": 100}


def test_what_is_free_may_be_unknown() -> None:
    assert a_plan(10**12, 1, free=None).fits
    assert a_plan(1, 10**12, gpu_free=None, unified=False).fits
    assert not a_plan(1, 10**12, gpu_free=None).fits


@given(MEMORY, MEMORY, st.integers(0, 100), st.integers(0, 100))
def test_shared_memory_never_holds_more_than_memory_apart(
    cpu: int, gpu: int, margin: int, room: int
) -> None:
    shared, apart = (a_plan(cpu, gpu, unified=unified, margin=margin) for unified in (True, False))
    assert shared.over_bytes(room).keys() >= apart.over_bytes(room).keys()
    fits = cpu + gpu + margin + room <= 1000 and gpu + margin <= 1000
    assert (shared.over_bytes(room) == {}) == fits
