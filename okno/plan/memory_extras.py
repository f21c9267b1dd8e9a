"""What a load takes beside the model and its window: adapters, a draft model or the model's own
prediction head, swap space."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from okno.core.header import ModelHeader, TensorInfo
from okno.core.load import Load
from okno.core.machine import Machine
from okno.core.plan import DeviceMemory, MemoryPlan
from okno.plan.memory import MemoryModel
from okno.plan.memory_devices import Split, split_layers
from okno.plan.memory_sizes import sizes_of

DraftMemory = Callable[[Load], Mapping[str, int]]
LAYER = re.compile(r"blk\.(\d+)\.")
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Extras:
    """adapters: tensors of LoRA (`NAME.lora_a`, `NAME.lora_b`), of all adapters. draft: bytes of
    the draft model or the prediction head by device, beside a load of the model. swap_bytes: main
    memory for states. spares_draft: where no window fits, the worker goes without what guesses."""

    adapters: tuple[TensorInfo, ...] = ()
    draft: DraftMemory | None = None
    swap_bytes: int = 0
    spares_draft: bool = False

    def draft_bytes(self, load: Load) -> Mapping[str, int]:
        """By device; empty where nothing beside the model guesses."""
        return self.draft(load) if self.draft is not None else {}


class WithExtras:
    """MemoryModel of `inner` and `extras`."""

    def __init__(
        self, inner: MemoryModel, header: ModelHeader, machine: Machine, extras: Extras
    ) -> None:
        self._inner, self._header, self._machine, self._extras = inner, header, machine, extras

    def memory(self, load: Load) -> MemoryPlan:
        plan = self._inner.memory(load)
        if self._extras == Extras():
            return plan
        more = self._more(load, {device.device for device in plan.devices})
        return replace(plan, devices=tuple(_with(device, more) for device in plan.devices))

    def _more(self, load: Load, devices: Collection[str]) -> dict[str, Counter[str]]:
        """Bytes by device and part. What is on none of `devices` is in main memory."""
        extras, split = self._extras, split_layers(self._header, self._machine, load)
        more: dict[str, Counter[str]] = {device: Counter() for device in devices}
        for tensor in extras.adapters:
            found = more[device_of(tensor.name, split, len(self._header.layers))]
            found["adapter_bytes"] += tensor.n_bytes
            found["compute_bytes"] = max(found["compute_bytes"], self._scratch_bytes(tensor, load))
        for device, n_bytes in extras.draft_bytes(load).items():
            more[device if device in more else "cpu"]["draft_bytes"] += n_bytes
        more["cpu"]["swap_bytes"] = extras.swap_bytes
        return more

    def _scratch_bytes(self, tensor: TensorInfo, load: Load) -> int:
        """At most so much more than without: the product of one pair, in f32, for each row of a
        step (measured: nothing where the graph has room, 256 x (8,192 + rank) x 4 for phi3)."""
        if not tensor.name.endswith(".lora_b"):
            return 0
        is_output = tensor.name.startswith("output.")
        sizes = sizes_of(self._header, load)
        rows = sizes.outputs if is_output else sizes.rows
        experts = max(1, self._header.n_expert_used) if len(tensor.dimensions) > 2 else 1
        return FLOAT_BYTES * sum(tensor.dimensions[:2]) * rows * experts


def draft_parts(plan: MemoryPlan) -> dict[str, int]:
    """Of a draft model, by device: it lives in the process that the model has anyway."""
    return {device.device: device.parts.model_bytes for device in plan.devices}


def device_of(name: str, split: Split, n_layer: int) -> str:
    """Where the tensor that an adapter's tensor belongs to is: llama.cpp puts both on one device
    (llama-adapter.cpp); beside the input layer, in main memory."""
    layer = LAYER.match(name)
    at = int(layer[1]) if layer else n_layer if name.startswith("output") else -1
    for device, first, end in zip(split.devices, split.bounds, split.bounds[1:], strict=False):
        if first <= at < end:
            return device.id
    return "cpu"


def _with(device: DeviceMemory, more: Mapping[str, Counter[str]]) -> DeviceMemory:
    found = {part: getattr(device.parts, part) + n for part, n in more[device.device].items()}
    return replace(device, parts=replace(device.parts, **found))
