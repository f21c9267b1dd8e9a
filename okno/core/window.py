"""The window: the two numbers okno is about, and what a loaded model says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from okno.core.adapter import Adapter
from okno.core.errors import BadRequest

MAX_BATCH_SIZE = 256  # sequences llama.cpp can hold (LLAMA_MAX_SEQ in llama-cparams.h)
KVType = Literal["f16", "bf16", "f32", "q8_0", "q4_0"]
CHANGE_BOUNDS = {"batch_size": (1, MAX_BATCH_SIZE), "ctx": (16, 2**24), "kv_pool": (16, 2**31 - 1)}


@dataclass(frozen=True, slots=True)
class Window:
    """batch_size: sequences decoded at once. ctx: tokens one request may see, prompt and answer
    together, never divided by batch. kv_pool_tokens: cells of the shared KV cache."""

    batch_size: int
    ctx: int
    kv_pool_tokens: int
    kv_type: KVType = "f16"
    step_tokens: int = 256


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the engine says of the loaded model. Sizes in bytes, lengths in tokens.

    shares_prefixes: arbitrary prefixes can be shared and rolled back (plain attention only).
    adapters: applied to all that it computes.
    """

    name: str
    path: str
    architecture: str
    description: str
    n_params: int
    size_bytes: int
    n_vocab: int
    n_embd: int
    n_layer: int
    ctx_train: int
    shares_prefixes: bool
    has_chat_template: bool
    is_embedding_model: bool
    pooling: str
    special_tokens: dict[str, int] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of the worker process as measured, and the parts the engine reports. own_bytes: of
    main memory, what is gone when the process ends (no pages of mapped files); device_bytes: what
    it holds on each accelerator, by the id of core.machine.Device, as planned."""

    process_bytes: int
    weights_bytes: int
    kv_bytes: int
    free_bytes: int
    own_bytes: int = 0
    device_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowChange:
    """What to change of a window that is open. None: stays as it is; `auto`: okno's pick for the
    memory that is free. A KV pool that was batch x ctx follows the two; `auto` makes it so."""

    batch_size: int | Literal["auto"] | None = None
    ctx: int | Literal["auto"] | None = None
    kv_type: KVType | None = None
    kv_pool: int | Literal["auto"] | None = None

    def check(self) -> None:
        """Raise BadRequest for the first field out of bounds."""
        for name, (low, high) in CHANGE_BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, int) and not low <= value <= high:
                raise BadRequest(
                    f"`{name}` is {value:,}; {low:,} to {high:,} or `auto` is possible.", param=name
                )
