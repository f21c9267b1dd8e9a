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
TOUCHED_AT_ONCE = 2**20  # bytes; new memory is slow: 3 ms

Bytes = NDArray[np.uint8]


class HostStates:
    """Saved states by key. The last freed buffer is used again where it fits: writing to new memory
    costs 25 times what writing to touched memory does (4,096 tokens: 350 ms against 13,
    facts/engine.md). A much larger one is not, so that little states hold no large buffers."""

    def __init__(self) -> None:
        self._held: dict[int, Bytes] = {}
        self._spare: Bytes | None = None
        self._touched = 0  # bytes of the spare one

    def prepare(self, context: lib.llama_context_p, seq: int) -> bool:
        """Have a touched buffer for the state of `seq`: a piece of it per call, True when it is."""
        size = lib.llama_state_seq_get_size(context, seq)
        if self._spare is None or not _fits(self._spare, size):
            self._spare, self._touched = np.empty(size, dtype=np.uint8), 0
        self._spare[self._touched : self._touched + TOUCHED_AT_ONCE] = 0
        self._touched = min(self._touched + TOUCHED_AT_ONCE, len(self._spare))
        return self._touched == len(self._spare)

    def save(self, context: lib.llama_context_p, seq: int, key: int) -> None:
        """Copy the state of `seq`."""
        self._held[key] = self._copied(context, seq)

    def restore(self, context: lib.llama_context_p, key: int, seq: int) -> None:
        """Bring the state back into `seq`, which is empty."""
        _put(context, self._held[key], seq)

    def pack(self, context: lib.llama_context_p, seq: int) -> None:
        """Move the state of `seq` into the lowest free cells: out, and in again (state_read_meta
        in src/llama-kv-cache.cpp frees its cells and looks for others from the lowest on)."""
        state = self._copied(context, seq)
        _put(context, state, seq)
        self._keep_spare(state)

    def forget(self, key: int) -> None:
        """Free what `key` holds; its buffer is kept for the next state."""
        self._keep_spare(self._held.pop(key))

    @property
    def buffer_bytes(self) -> int:
        """Of all buffers, the spare one included."""
        held = sum(len(state.base) for state in self._held.values() if state.base is not None)
        return held + (0 if self._spare is None else len(self._spare))

    def _copied(self, context: lib.llama_context_p, seq: int) -> Bytes:
        """The state of `seq`, in the spare buffer if that fits."""
        size = lib.llama_state_seq_get_size(context, seq)
        buffer, self._spare = self._spare, None
        if buffer is None or not _fits(buffer, size):
            buffer = np.empty(size, dtype=np.uint8)
        written = lib.llama_state_seq_get_data(context, _pointer(buffer), size, seq)
        if written != size:
            raise EngineBroken(f"the state of sequence {seq} has {size:,} bytes, {written:,} came")
        return buffer[:size]

    def _keep_spare(self, state: Bytes) -> None:
        assert isinstance(state.base, np.ndarray)
        self._spare, self._touched = state.base, len(state.base)


def _put(context: lib.llama_context_p, state: Bytes, seq: int) -> None:
    if lib.llama_state_seq_set_data(context, _pointer(state), len(state), seq) == 0:
        raise EngineBroken(f"a saved state of {len(state):,} bytes does not fit the KV cache")


def _fits(buffer: Bytes, size: int) -> bool:
    return size <= len(buffer) <= MOST_SLACK * size


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
