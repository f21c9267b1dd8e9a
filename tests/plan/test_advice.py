"""When a window does not fit, every advice is true: its bytes are, and what it says fits does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.machine import Device, Machine
from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.plan.advice import Advice, Trouble, advise, short_by
from okno.plan.search import LOAD, fits, window_of
from tests.plan.fakes import MIB, LinearMemory, a_header, a_machine


def trouble(free_mib: int, batch_size: int = 4, ctx: int = 8192, **more) -> Trouble:
    memory = LinearMemory(free_mib * MIB)
    load = window_of(LOAD, batch_size, ctx, "f16")
    return Trouble(a_header(), a_machine(free_mib * MIB), load, memory, **more)


def weigh(free_mib: int):
    """Memory of any model: its weights, and the same KV."""

    def memory_of(header: ModelHeader) -> LinearMemory:
        return LinearMemory(free_mib * MIB, weights_bytes=header.weights_bytes)

    return memory_of


def by_change(found: tuple[Advice, ...]) -> dict[str, Advice]:
    return {advice.change: advice for advice in found}


@given(st.integers(300, 700), st.integers(1, 256), st.integers(16, 10_000))
def test_what_is_said_to_fit_fits_and_the_bytes_are_true(free_mib, batch_size, ctx):
    asked = trouble(free_mib, batch_size, ctx)
    for advice in advise(asked):
        plan = asked.memory.memory(advice.load)
        assert advice.fits == fits(plan, asked.room_bytes)
        assert advice.needed_bytes == plan.needed_bytes
        assert advice.saved_bytes == asked.needed_bytes - plan.needed_bytes
        assert ("then it fits" in advice.text) == advice.fits


def test_the_widest_ctx_and_the_largest_batch_that_fit_are_named():
    found = by_change(advise(trouble(400 + 8 + 4 + 8 * 16)))  # room for 16k tokens of KV
    assert found["ctx"].text.startswith("--ctx 4096: ")
    assert found["batch_size"].load.window.batch_size == 2
    assert all(found[name].fits for name in ("ctx", "batch_size"))


def test_each_smaller_kv_type_is_tried():
    found = [a for a in advise(trouble(400 + 8 + 4 + 8 * 16)) if a.change == "kv_type"]
    assert [(a.load.window.kv_type, a.fits) for a in found] == [("q4_0", True), ("q8_0", False)]


def test_enough_comes_before_not_enough():
    found = advise(trouble(400 + 8 + 4 + 8 * 16))
    assert [advice.fits for advice in found] == sorted((a.fits for a in found), reverse=True)


def test_where_weights_alone_are_too_much_only_another_quantisation_or_model_helps():
    variants = [replace(a_header(weights_mib=mib), file_type=f"T{mib}") for mib in (100, 200, 300)]
    other = replace(a_header(weights_mib=50), name="mini")
    asked = trouble(250, 1, 512, memory_of=weigh(250), variants=variants, others=[other])
    found = by_change(advise(asked))
    assert [advice.change for advice in advise(asked) if advice.fits] == ["quantisation", "model"]
    assert (found["quantisation"].model, found["quantisation"].saved_bytes) == ("T200", 200 * MIB)
    assert found["model"].model == "mini Q4_0"


def test_a_quantisation_that_is_still_too_large_is_shown_with_what_lacks():
    asked = trouble(50, 1, 512, memory_of=weigh(50), variants=[a_header(weights_mib=100)])
    (advice,) = (a for a in advise(asked) if a.change == "quantisation")
    assert not advice.fits
    assert "not enough alone (63.0 MiB too much on cpu)" in advice.text


@dataclass
class SplitMemory:
    """Each layer 100 MiB, on the accelerator (1000 MiB free) or the CPU; -1 is all of them."""

    n_layer: int

    def memory(self, load: Load) -> MemoryPlan:
        on_gpu = self.n_layer if load.gpu_layers < 0 else min(load.gpu_layers, self.n_layer)
        gpu = MemoryParts(weights_bytes=on_gpu * 100 * MIB)
        cpu = MemoryParts(weights_bytes=(self.n_layer - on_gpu) * 100 * MIB)
        devices = (DeviceMemory("cuda0", gpu, 1000 * MIB), DeviceMemory("cpu", cpu, 4000 * MIB))
        return MemoryPlan(devices, "closed form")


def test_layers_are_split_so_that_the_accelerator_is_just_full():
    device = Device("cuda0", "cuda", "a card", 1000 * MIB, 1000 * MIB)
    machine: Machine = replace(a_machine(), devices=(device,))
    asked = Trouble(a_header(n_layer=16), machine, LOAD, SplitMemory(16))
    offload = by_change(advise(asked))["offload"]
    assert (offload.load.gpu_layers, offload.fits) == (10, True)
    assert offload.saved_bytes == 600 * MIB
    assert short_by(asked.memory.memory(LOAD)) == "600 MiB too much on cuda0"
    useless = replace(machine, devices=(replace(device, unusable="built without CUDA"),))
    assert "offload" not in by_change(advise(replace(asked, machine=useless)))


def test_what_devices_share_is_short_in_one_place():
    parts = MemoryParts(weights_bytes=700 * MIB)
    devices = (DeviceMemory("cpu", parts, 1000 * MIB),
               DeviceMemory("MTL0", parts, 1000 * MIB, unified=True))  # fmt: skip
    plan = MemoryPlan(devices, "closed form")
    assert short_by(plan, 100 * MIB) == "500 MiB too much on cpu and MTL0 together"
    assert not fits(plan)
