"""Memory of a load, before loading: each part on each device.

`ClosedForm` needs nothing but the header, so it also answers for hardware that is not here.
`Anchored` corrects it by a few dry runs of the engine itself (engines/dry_run.py) and answers any
window between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import lru_cache
from typing import Protocol

from okno.core.errors import BadSetting, DoesNotFit
from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.machine import Machine
from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.plan.memory_compute import blocks_of, compute_bytes
from okno.plan.memory_devices import Split, split_layers
from okno.plan.memory_parts import Weights, kv_bytes, output_bytes, split_weights, state_bytes
from okno.plan.memory_process import (
    DEFAULT_OVERHEAD,
    Overhead,
    loading_bytes,
    margin_bytes,
    process_bytes,
)
from okno.plan.memory_sizes import QUANTISED_KV, Sizes, sizes_of

__all__ = ["DEFAULT_OVERHEAD", "Anchored", "ClosedForm", "MemoryModel", "Overhead",
           "predict_memory"]  # fmt: skip
ANCHOR_CTX = (1024, 16_384)
KV_BLOCK_VALUES = 32
MOST_STATE_BYTES = 2**30  # recurrent state is really allocated, also in a dry run
EXACT_BYTES = 64 * 1024  # a closed form this near to the engine needs no correction


class MemoryModel(Protocol):
    """Answers for any load of one model on one machine."""

    def memory(self, load: Load) -> MemoryPlan:
        """Raises BadSetting when the engine cannot open such a window at all."""
        ...


def predict_memory(
    header: ModelHeader, load: Load, machine: Machine, overhead: Overhead = DEFAULT_OVERHEAD
) -> MemoryPlan:
    """One answer of ClosedForm."""
    return ClosedForm(header, machine, overhead).memory(load)


class ClosedForm:
    """MemoryModel from the header alone. The weights' layout follows the machine's processor,
    layers go to its devices as llama.cpp would place them."""

    def __init__(
        self, header: ModelHeader, machine: Machine, overhead: Overhead = DEFAULT_OVERHEAD
    ) -> None:
        self._header, self._machine, self._overhead = header, machine, overhead
        self._blocks = blocks_of(header)
        self._compute = lru_cache(maxsize=4096)(self._compute_bytes)
        self._weights = lru_cache(maxsize=256)(self._split_weights)

    def memory(self, load: Load) -> MemoryPlan:
        check_kv_type(self._header, load)
        sizes = sizes_of(self._header, load)
        split = split_layers(self._header, self._machine, load)
        on_cpu = self._cpu_parts(load, sizes, split)
        parts = {"cpu": on_cpu, **split.device_parts(self._header, load, sizes, self._compute)}
        devices = finished(parts, self._header, load, self._machine, self._overhead)
        return MemoryPlan(devices, "closed form", margin_bytes(devices, self._overhead))

    def _cpu_parts(self, load: Load, sizes: Sizes, split: Split) -> MemoryParts:
        header = self._header
        kv_type = "f16" if header.is_embedding_model else load.window.kv_type
        weights, _ = self._weights(split.first_layer)
        on_cpu = slice(0, split.first_layer)
        parts = MemoryParts(
            weights_bytes=weights.stored_bytes,
            repacked_bytes=weights.repacked_bytes,
            kv_bytes=kv_bytes(header, sizes, kv_type, on_cpu),
            state_bytes=state_bytes(header, sizes, on_cpu),
            compute_bytes=split.host_compute_bytes(header, sizes, self._compute),
            output_bytes=output_bytes(header, sizes),
        )
        if load.mmap:
            return replace(parts, weights_bytes=0, mapped_bytes=header.file_bytes)
        return replace(parts, process_bytes=loading_bytes(parts, weights))

    def _split_weights(self, first_layer: int) -> tuple[Weights, int]:
        return split_weights(self._header, self._machine.cpu, first_layer)

    def _compute_bytes(self, sizes: Sizes) -> int:
        return compute_bytes(self._header, self._blocks, sizes)


class Anchored:
    """MemoryModel from the header and a few dry runs. `dry_run` is asked for two windows of every
    kind the first time one is wanted; where the closed form meets both, it answers alone, else
    what it lacked is interpolated over the cells."""

    def __init__(
        self,
        header: ModelHeader,
        machine: Machine,
        dry_run: Callable[[Load], MemoryPlan],
        overhead: Overhead = DEFAULT_OVERHEAD,
    ) -> None:
        self._header, self._machine, self._overhead = header, machine, overhead
        self._closed = ClosedForm(header, machine, overhead)
        self._dry_run = dry_run
        self._anchors: dict[tuple[object, ...], tuple[_Anchor, ...]] = {}
        self._exact: dict[tuple[object, ...], bool] = {}

    def memory(self, load: Load) -> MemoryPlan:
        plan = self._closed.memory(load)
        kind = _kind(load)
        if self._exact.get(kind, True):
            anchors = self._anchors_of(load)
            self._exact[kind] = bool(anchors) and all(anchor.is_exact for anchor in anchors)
        if self._exact[kind]:
            return replace(plan, source="engine")
        anchors = self._anchors_of(load)
        return replace(self._corrected(plan, anchors, load), source="engine") if anchors else plan

    def _anchors_of(self, load: Load) -> tuple[_Anchor, ...]:
        """Shared by all batch sizes where the closed form is exact, else one pair for each."""
        kind = _kind(load)
        key = kind if self._exact.get(kind, True) else (*kind, load.window.batch_size)
        if key not in self._anchors:
            found = (self._anchor(load, ctx) for ctx in ANCHOR_CTX)
            self._anchors[key] = tuple(anchor for anchor in found if anchor is not None)
        return self._anchors[key]

    def _anchor(self, load: Load, ctx: int) -> _Anchor | None:
        batch = load.window.batch_size
        window = replace(load.window, ctx=ctx, kv_pool_tokens=batch * ctx)
        at = replace(load, window=window, mmap=False)
        ours = self._closed.memory(at)
        state_bytes = sum(device.parts.state_bytes for device in ours.devices)
        if state_bytes > min(MOST_STATE_BYTES, self._machine.ram.free_bytes // 4):
            return None
        try:
            told = self._dry_run(at)
        except DoesNotFit:
            return None
        return _Anchor(sizes_of(self._header, at).cells, _differences(told, ours))

    def _corrected(self, plan: MemoryPlan, anchors: tuple[_Anchor, ...], load: Load) -> MemoryPlan:
        cells = sizes_of(self._header, load).cells
        devices = []
        for device in plan.devices:
            changes = {
                name: max(0, getattr(device.parts, name) + missing)
                for name, missing in _interpolated(anchors, device.device, cells).items()
                if not (load.mmap and name == "weights_bytes")
            }
            devices.append(replace(device, parts=replace(device.parts, **changes)))
        return replace(plan, devices=tuple(devices))


class _Anchor:
    """What the engine's answer has more than the closed form, by device and part, at `cells`."""

    def __init__(self, cells: int, differences: dict[tuple[str, str], int]) -> None:
        self.cells, self.differences = cells, differences

    @property
    def is_exact(self) -> bool:
        return all(abs(n_bytes) <= EXACT_BYTES for n_bytes in self.differences.values())


_NOT_ENGINE = ("process_bytes", "mapped_bytes", "adapter_bytes", "draft_bytes", "swap_bytes")
_ENGINE_PARTS = tuple(f.name for f in fields(MemoryParts) if f.name not in _NOT_ENGINE)


def _differences(told: MemoryPlan, ours: MemoryPlan) -> dict[tuple[str, str], int]:
    """By place in the list: the engine names devices its own way."""
    found = {}
    for theirs, mine in zip(told.devices, ours.devices, strict=False):
        for name in _ENGINE_PARTS:
            found[mine.device, name] = getattr(theirs.parts, name) - getattr(mine.parts, name)
    return found


def _interpolated(anchors: tuple[_Anchor, ...], device: str, cells: int) -> dict[str, int]:
    """Linear in the cells, also beyond the outer anchors."""
    first, last = anchors[0], anchors[-1]
    span = last.cells - first.cells
    share = (cells - first.cells) / span if span else 0.0
    found = {}
    for (name_of, part), start in first.differences.items():
        if name_of == device:
            end = last.differences.get((name_of, part), start)
            found[part] = round(start + (end - start) * share)
    return found


def _kind(load: Load) -> tuple[object, ...]:
    """Loads whose scratch memory is built the same way."""
    window = load.window
    return (window.kv_type, window.step_tokens, load.flash_attention, load.gpu_layers,
            load.kv_unified)  # fmt: skip


def finished(
    parts: dict[str, MemoryParts],
    header: ModelHeader,
    load: Load,
    machine: Machine,
    overhead: Overhead,
) -> tuple[DeviceMemory, ...]:
    """The engine's buffers with the process around them and what is free."""
    free = {device.id: device.free_bytes for device in machine.devices}
    free["cpu"] = machine.ram.free_bytes
    unified = {device.id for device in machine.devices if device.unified}
    books = process_bytes(header, load, overhead)
    host = replace(parts["cpu"], process_bytes=parts["cpu"].process_bytes + books)
    return tuple(
        DeviceMemory(device, host if device == "cpu" else told, free.get(device), device in unified)
        for device, told in parts.items()
    )


def check_kv_type(header: ModelHeader, load: Load) -> None:
    """Raises BadSetting for a cache type the engine refuses for this model
    (llama_init_from_model)."""
    kv_type = load.window.kv_type
    if kv_type not in QUANTISED_KV or header.is_embedding_model:
        return
    if load.flash_attention == "off":
        raise BadSetting(
            f"--kv-type {kv_type} needs flash attention, which is switched off. Use "
            "--flash-attention auto, or --kv-type f16."
        )
    for layer in header.layers:
        if layer.head_dim % KV_BLOCK_VALUES:
            raise BadSetting(
                f"--kv-type {kv_type} stores {KV_BLOCK_VALUES} values together, and the heads of "
                f"{header.name} have {layer.head_dim}. Use --kv-type f16."
            )
