"""What the model's own prediction head takes: its block, a cache of one layer, the scratch and
logits of its steps, and the hidden states that wait for it (engines/llama_mtp.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from okno.core.header import Layer, ModelHeader, TensorInfo
from okno.core.load import Load, head_sizes
from okno.core.machine import Machine
from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.plan.memory import Anchored, ClosedForm, MemoryModel
from okno.plan.memory_extras import draft_parts
from okno.plan.prediction_head import n_heads

FLOAT_BYTES = 4
WEIGHTS = ("weights_bytes", "repacked_bytes", "mapped_bytes")


class HeadMemory:
    """memory_extras.DraftMemory of the head of `header`. with_head, without: the engine's dry runs
    of the head's context on the model with it, and of the model alone; None: the closed form, whose
    plans of the model hold the head's weights already."""

    def __init__(
        self,
        header: ModelHeader,
        machine: Machine,
        with_head: MemoryModel | None = None,
        without: MemoryModel | None = None,
    ) -> None:
        self._header, alone = header, head_alone(header)
        self._with_head, self._without = with_head, without
        self._memory: MemoryModel = ClosedForm(alone, machine)
        if with_head is not None:
            self._memory = Anchored(alone, machine, self._told)

    def __call__(self, load: Load) -> Mapping[str, int]:
        """Bytes by device, beside `load` of the model."""
        sizes = head_sizes(load)
        window = replace(load.window, kv_type="f16", step_tokens=sizes.n_batch)
        plan = self._memory.memory(replace(load, window=window, kv_unified=True, mmap=False))
        if self._with_head is None:
            plan = _without_weights(plan)
        return Counter(draft_parts(plan)) + Counter(cpu=hidden_bytes(self._header, load))

    def _told(self, load: Load) -> MemoryPlan:
        """By the engine: its weights are what the model has more with it."""
        assert self._with_head is not None
        assert self._without is not None
        both = self._with_head.memory(load)
        alone = {device.device: device.parts for device in self._without.memory(load).devices}
        return replace(both, devices=tuple(_less(device, alone) for device in both.devices))


def hidden_bytes(header: ModelHeader, load: Load) -> int:
    """Hidden states: those kept of each sequence, and the rows of a step in the buffers of both
    contexts (llama-context.cpp, output_reserve)."""
    window = load.window
    kept = window.batch_size * load.kept_hidden_rows
    return FLOAT_BYTES * header.n_embd * (kept + window.step_tokens + window.batch_size)


def head_alone(header: ModelHeader) -> ModelHeader:
    """The head as a model of one layer, which keeps what the model's last layer does."""
    block = header.n_layer - n_heads(header)
    like = next((layer for layer in reversed(header.layers[:block]) if layer.k_width), Layer())
    tensors = tuple(_moved(tensor, block) for tensor in header.tensors if _is_part(tensor, block))
    return replace(header, n_layer=1, layers=(replace(like, window=None),), tensors=tensors)


def _is_part(tensor: TensorInfo, block: int) -> bool:
    return not tensor.name.startswith("blk.") or tensor.name.startswith(f"blk.{block}.")


def _moved(tensor: TensorInfo, block: int) -> TensorInfo:
    return replace(tensor, name=tensor.name.replace(f"blk.{block}.", "blk.0."))


def _less(device: DeviceMemory, alone: Mapping[str, MemoryParts]) -> DeviceMemory:
    """`device` with only those weights that are not in `alone`."""
    base = alone.get(device.device, MemoryParts())
    rest = {name: max(0, getattr(device.parts, name) - getattr(base, name)) for name in WEIGHTS}
    return replace(device, parts=replace(device.parts, **rest))


def _without_weights(plan: MemoryPlan) -> MemoryPlan:
    none = dict.fromkeys(WEIGHTS, 0)
    devices = (replace(one, parts=replace(one.parts, **none)) for one in plan.devices)
    return replace(plan, devices=tuple(devices))
