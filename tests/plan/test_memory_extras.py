"""What is loaded beside a model is part of every window's memory, on the device where it lies."""

from __future__ import annotations

from dataclasses import replace

from okno.core.header import TensorInfo
from okno.core.load import Load
from okno.core.machine import Device
from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.core.window import Window
from okno.plan.memory import ClosedForm
from okno.plan.memory_extras import Extras, WithExtras, draft_parts
from tests.plan.fakes import MIB, LinearMemory, a_header, a_machine

HEADER = a_header(n_layer=4)
CPU_ONLY = a_machine()
GPU = Device("CUDA0", "cuda", "a card", 8 << 30, 8 << 30)


def load(batch: int = 2, ctx: int = 512, **changes: object) -> Load:
    return Load(Window(batch, ctx, batch * ctx), **changes)  # type: ignore[arg-type]


def pair(name: str, inputs: int = 512, outputs: int = 1024, rank: int = 8) -> list[TensorInfo]:
    return [
        TensorInfo(f"{name}.lora_a", "F32", (inputs, rank), 4 * inputs * rank),
        TensorInfo(f"{name}.lora_b", "F32", (rank, outputs), 4 * rank * outputs),
    ]


def test_without_anything_beside_it_the_plan_is_the_models() -> None:
    inner = LinearMemory(1 << 30)
    assert WithExtras(inner, HEADER, CPU_ONLY, Extras()).memory(load()) == inner.memory(load())


def test_adapters_count_with_the_scratch_of_their_widest_product() -> None:
    tensors = (*pair("blk.0.attn_q.weight"), *pair("blk.1.ffn_up.weight", outputs=4096))
    inner = LinearMemory(1 << 30)
    plan = WithExtras(inner, HEADER, CPU_ONLY, Extras(tensors)).memory(load())
    (before,), (after,) = inner.memory(load()).devices, plan.devices
    assert after.parts.adapter_bytes == sum(tensor.n_bytes for tensor in tensors)
    rows = 256  # whole groups of 32 sequences
    more = after.parts.compute_bytes - before.parts.compute_bytes
    assert more == 4 * rows * (4096 + 8)


def test_the_output_is_computed_for_few_rows() -> None:
    plan = WithExtras(
        LinearMemory(1 << 30), HEADER, CPU_ONLY, Extras(tuple(pair("output.weight", 512, 32_000)))
    ).memory(load())
    before = LinearMemory(1 << 30).memory(load()).devices[0].parts.compute_bytes
    assert plan.devices[0].parts.compute_bytes - before == 4 * 32 * (32_000 + 8)


def test_an_adapter_lies_where_its_layer_does() -> None:
    machine = replace(CPU_ONLY, devices=(GPU,))
    tensors = (*pair("blk.0.attn_q.weight"), *pair("blk.3.attn_q.weight", rank=2),
               *pair("token_embd.weight", rank=1))  # fmt: skip
    memory = WithExtras(ClosedForm(HEADER, machine), HEADER, machine, Extras(tensors))
    found = {d.device: d.parts.adapter_bytes for d in memory.memory(load(gpu_layers=2)).devices}
    ranks = {device: n_bytes // (4 * (512 + 1024)) for device, n_bytes in found.items()}
    assert ranks == {"cpu": 8 + 1, "CUDA0": 2}


def test_the_draft_model_follows_the_window_and_swap_space_is_main_memory() -> None:
    asked: list[Load] = []

    def draft(beside: Load) -> dict[str, int]:
        asked.append(beside)
        return {"cpu": beside.window.kv_pool_tokens, "elsewhere": 7}

    extras = Extras(draft=draft, swap_bytes=5 * MIB)
    plan = WithExtras(LinearMemory(1 << 30), HEADER, CPU_ONLY, extras).memory(load())
    parts = plan.devices[0].parts
    assert (parts.draft_bytes, parts.swap_bytes) == (2 * 512 + 7, 5 * MIB)
    assert parts.needed_bytes == parts.model_bytes + parts.extra_bytes
    assert asked == [load()]


def test_what_does_not_fit_beside_the_model_does_not_fit() -> None:
    inner = LinearMemory(500 * MIB)
    assert inner.memory(load()).fits
    extras = Extras(swap_bytes=200 * MIB)
    assert not WithExtras(inner, HEADER, CPU_ONLY, extras).memory(load()).fits


def test_a_draft_model_has_no_process_of_its_own() -> None:
    parts = MemoryParts(weights_bytes=5, kv_bytes=3, process_bytes=40, mapped_bytes=9)
    plan = MemoryPlan((DeviceMemory("cpu", parts),), "engine")
    assert draft_parts(plan) == {"cpu": 8}
