"""What the model's own prediction head takes: its block, a cache of one layer, the scratch and
logits of its steps, and the hidden states that wait for it (engines/llama_mtp.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from okno.core.header import Layer, ModelHeader, TensorInfo
from okno.core.load import Load, head_sizes
from okno.core.machine import Machine
from okno.core.plan import MemoryPlan
from okno.plan.memory import Anchored, ClosedForm, MemoryModel
from okno.plan.memory_devices import split_layers
from okno.plan.memory_extras import device_of, draft_parts
from okno.plan.memory_parts import split_weights
from okno.plan.prediction_head import n_heads

FLOAT_BYTES = 4
WEIGHTS = ("weights_bytes", "repacked_bytes", "mapped_bytes")
_UNTIED = (TensorInfo("output.weight", "F32", (), 0),)  # the output layer is the model's


class HeadMemory:
    """memory_extras.DraftMemory of the head of `header`. context: the engine's dry run of the
    head's context on the model with it; None: the closed form, whose plans of the model hold the
    head's weights already."""

    def __init__(
        self, header: ModelHeader, machine: Machine, context: MemoryModel | None = None
    ) -> None:
        self._header, self._machine, self._alone = header, machine, head_alone(header)
        self._counts_weights = context is not None
        self._memory: MemoryModel = ClosedForm(self._alone, machine)
        if context is not None:
            told = context.memory
            self._memory = Anchored(self._alone, machine, lambda load: _without_weights(told(load)))

    def __call__(self, load: Load) -> Mapping[str, int]:
        """Bytes by device, beside `load` of the model."""
        sizes = head_sizes(load)
        window = replace(load.window, kv_type="f16", step_tokens=sizes.n_batch)
        plan = self._memory.memory(replace(load, window=window, kv_unified=True, mmap=False))
        found = Counter(draft_parts(_without_weights(plan)))
        found["cpu"] += hidden_bytes(self._header, load)
        return found + self._weights(load) if self._counts_weights else found

    def _weights(self, load: Load) -> Counter[str]:
        """Of the head's block, where the model's last layers are."""
        header, block = self._header, self._header.n_layer - n_heads(self._header)
        split = split_layers(header, self._machine, load)
        device = device_of(f"blk.{block}.", split, header.n_layer)
        own = tuple(t for t in self._alone.tensors if t.name.startswith("blk."))
        on_cpu = device == "cpu"
        part = replace(self._alone, tensors=(*own, *_UNTIED))
        weights, on_device = split_weights(part, self._machine.cpu, 1 if on_cpu else 0)
        stored = 0 if load.mmap else weights.stored_bytes
        return Counter({device: stored + weights.repacked_bytes if on_cpu else on_device})


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


def _without_weights(plan: MemoryPlan) -> MemoryPlan:
    none = dict.fromkeys(WEIGHTS, 0)
    devices = (replace(one, parts=replace(one.parts, **none)) for one in plan.devices)
    return replace(plan, devices=tuple(devices))
