"""States of sequences in host memory: what a sequence computed, outside the KV pool."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from okno.core.plan import MemoryPlan
from okno.engines.engine import EngineBroken

MOST_AUTO_BYTES = 2**30
AUTO_SHARE = 4  # of what the plan leaves free, a quarter
MOST_SLACK = 1.25  # of a buffer over the state in it

Bytes = NDArray[np.uint8]


class HostStates:
    """Saved states by key. The last freed buffer is used again where it fits: writing to new memory
    costs 25 times what writing to touched memory does (4,096 tokens: 350 ms against 13,
    facts/engine.md). A much larger one is not, so that little states hold no large buffers."""

    def __init__(self) -> None:
        self._held: dict[int, Bytes] = {}
        self._spare: Bytes | None = None

    def save(self, context: lib.llama_context_p, seq: int, key: int) -> None:
        """Copy the state of `seq`."""
        size = lib.llama_state_seq_get_size(context, seq)
        buffer = self._buffer(size)
        written = lib.llama_state_seq_get_data(context, _pointer(buffer), size, seq)
        if written != size:
            raise EngineBroken(f"the state of sequence {seq} has {size:,} bytes, {written:,} came")
        self._held[key] = buffer[:size]

    def restore(self, context: lib.llama_context_p, key: int, seq: int) -> None:
        """Bring the state back into `seq`, which is empty."""
        state = self._held[key]
        if lib.llama_state_seq_set_data(context, _pointer(state), len(state), seq) == 0:
            raise EngineBroken(f"a saved state of {len(state):,} bytes does not fit the KV cache")

    def forget(self, key: int) -> None:
        """Free what `key` holds; its buffer is kept for the next state."""
        buffer = self._held.pop(key).base
        assert isinstance(buffer, np.ndarray)
        self._spare = buffer

    @property
    def buffer_bytes(self) -> int:
        """Of all buffers, the spare one included."""
        held = sum(len(state.base) for state in self._held.values() if state.base is not None)
        return held + (0 if self._spare is None else len(self._spare))

    def _buffer(self, size: int) -> Bytes:
        spare, self._spare = self._spare, None
        if spare is not None and size <= len(spare) <= MOST_SLACK * size:
            return spare
        return np.empty(size, dtype=np.uint8)


def host_bytes(plan: MemoryPlan) -> int:
    """Host memory for states: a quarter of what the plan leaves free, at most 1 GiB."""
    return min(MOST_AUTO_BYTES, _left_bytes(plan) // AUTO_SHARE)


def _left_bytes(plan: MemoryPlan) -> int:
    """Main memory that the plan leaves free, its margin kept."""
    free = 0
    for device in plan.devices:
        if device.device == "cpu" and device.free_bytes is not None:
            free += device.free_bytes - device.parts.needed_bytes - plan.margin_bytes
        elif device.unified:
            free -= device.parts.needed_bytes
    return max(0, free)


def _pointer(buffer: Bytes) -> ctypes.Array[ctypes.c_uint8]:
    return (ctypes.c_uint8 * len(buffer)).from_address(buffer.ctypes.data)
