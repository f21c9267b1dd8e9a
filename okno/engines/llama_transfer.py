"""The states of sequences on their way from one llama.cpp context to another, in main memory.

Two ways. Whole: all cells at once (llama_state_get_data), each with the list of sequences it
belongs to, so that shared prefixes stay shared; the cells go into the new context from 0 on in
their order, without the gaps. One by one (llama_state_seq_get_data): for models whose prefixes are
not shared; a sliding window leaves behind what no token sees any more, so that the states also fit
a smaller one. Source: llama.cpp src/llama-kv-cache.cpp, state_write and state_read.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from okno.core.errors import DoesNotFit
from okno.schedule.resize import Move, Moves

Bytes = NDArray[np.uint8]
TO_END = -1  # as a position: to the end of the sequence
ALL = -1  # instead of a sequence: the whole context


class Transfer:
    """Save, then restore into another context, or back into the same window."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._room: Bytes = np.empty(0, dtype=np.uint8)
        self._moves: Moves = ()
        self._saved: list[tuple[Move, Bytes]] = []

    @property
    def size_bytes(self) -> int:
        return sum(len(data) for _, data in self._saved)

    def reserve(self, size_bytes: int) -> None:
        """Have so much memory touched before it is needed: the first write into fresh pages costs
        25 times a later one (134 MB: 350 ms against 13 ms)."""
        self._room = np.empty(size_bytes, dtype=np.uint8)
        self._room.fill(0)

    def save(self, context: lib.llama_context_p, moves: Moves) -> bool:
        """Copy what `moves` names out of `context`; False when the engine could not."""
        self._moves = moves
        if self._whole:
            _rename(context, moves)
        sized = self._sizes(context)
        if sum(size for _, size in sized) > len(self._room):
            self._room = np.empty(sum(size for _, size in sized), dtype=np.uint8)
        at = 0
        for move, size in sized:
            data = self._room[at : at + size]
            if _get(context, move.src, data) != size:
                return False
            self._saved.append((move, data))
            at += size
        return True

    def restore(self, context: lib.llama_context_p) -> bool:
        """Put all into the new `context`; False when the engine could not: it holds nothing then
        that may be used."""
        return all(_set(context, move.dst, data) == len(data) for move, data in self._saved)

    def restore_back(self, context: lib.llama_context_p) -> bool:
        """Put all into `context`, a new one of the old window, as it was before `save`."""
        done = all(_set(context, move.src, data) == len(data) for move, data in self._saved)
        if done and self._whole:
            _rename(context, tuple(Move(move.dst, move.src) for move in self._moves))
        return done

    def _sizes(self, context: lib.llama_context_p) -> list[tuple[Move, int]]:
        if self._whole:
            return [(Move(ALL, ALL), lib.llama_state_get_size(context))]
        memory = lib.llama_get_memory(context)
        return [
            (move, lib.llama_state_seq_get_size(context, move.src))
            for move in self._moves
            if lib.llama_memory_seq_pos_max(memory, move.src) >= 0
        ]


def replaced(
    context: lib.llama_context_p, moves: Moves, open_new: Callable[[], lib.llama_context_p]
) -> tuple[lib.llama_context_p | None, bool]:
    """The context that open_new gives in the place of `context`, which is freed before, and whether
    it has the sequences that `moves` names. None: open_new raised DoesNotFit."""
    transfer = Transfer(whole=False)
    saved = transfer.save(context, moves)
    lib.llama_free(context)
    try:
        new = open_new()
    except DoesNotFit:
        return None, False
    moved = saved and transfer.restore(new)
    if not moved:
        lib.llama_memory_clear(lib.llama_get_memory(new), False)
    return new, moved


def _rename(context: lib.llama_context_p, moves: Moves) -> None:
    """Sequences under their new numbers: which cells belong to whom, nothing is copied."""
    memory = lib.llama_get_memory(context)
    for move in moves:
        if move.src != move.dst:
            lib.llama_memory_seq_cp(memory, move.src, move.dst, 0, TO_END)
            lib.llama_memory_seq_rm(memory, move.src, 0, TO_END)


def _get(context: lib.llama_context_p, seq: int, data: Bytes) -> int:
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    if seq == ALL:
        return int(lib.llama_state_get_data(context, pointer, len(data)))
    return int(lib.llama_state_seq_get_data(context, pointer, len(data), seq))


def _set(context: lib.llama_context_p, seq: int, data: Bytes) -> int:
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    if seq == ALL:
        return int(lib.llama_state_set_data(context, pointer, len(data)))
    return int(lib.llama_state_seq_set_data(context, pointer, len(data), seq))
