"""LoRA adapters of a loaded model. A context computes with those that are set on it, so they are
set on each one that is opened: the first, those of other windows, that of embeddings."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as lib

from okno.core.adapter import Adapter
from okno.core.errors import ModelUnusable
from okno.engines.engine import EngineBroken
from okno.engines.llama_model import LlamaModel, recent_problems
from okno.inspect.adapter import read_adapter


class Adapters:
    """Loaded beside `model`, and freed with it; to be made before the first context (llama.h).
    Raises ModelUnusable."""

    def __init__(self, model: LlamaModel, adapters: Sequence[Adapter]) -> None:
        self.size_bytes = sum(read_adapter(Path(one.path)).n_bytes for one in adapters)
        pointers = [_loaded(model, adapter) for adapter in adapters]
        self._count = len(pointers)
        self._pointers = (lib.llama_adapter_lora_p_ctypes * self._count)(*pointers)
        self._scales = (ctypes.c_float * self._count)(*(adapter.scale for adapter in adapters))

    def apply_to(self, context: lib.llama_context_p) -> None:
        """All that `context` computes from now on is computed with them."""
        if not self._count:
            return
        status = lib.llama_set_adapters_lora(context, self._pointers, self._count, self._scales)
        if status != 0:
            raise EngineBroken(f"llama_set_adapters_lora returned {status}")


def _loaded(model: LlamaModel, adapter: Adapter) -> lib.llama_adapter_lora_p:
    pointer = lib.llama_adapter_lora_init(model.pointer, adapter.path.encode())
    if not pointer:
        raise ModelUnusable(
            f"The adapter {adapter.name} ({adapter.path}) cannot be loaded: "
            f"{' | '.join(recent_problems(2))}. Convert it again, or leave out --lora."
        )
    return pointer
