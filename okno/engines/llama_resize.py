"""The real engine's way from one window to another (engines/resizing.py): a second context on the
same weights, the states copied through main memory, the old context freed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import llama_cpp.llama_cpp as lib
import numpy as np

from okno.core.errors import DoesNotFit
from okno.core.plan import MemoryPlan
from okno.core.window import Window
from okno.engines.choice import Choice
from okno.engines.engine import EngineBroken
from okno.engines.llama_batch import Batch
from okno.engines.llama_transfer import Transfer
from okno.engines.protocol import WorkerOptions
from okno.engines.resizing import Switched
from okno.inspect.memory import free_memory
from okno.plan.memory_beside import fits_beside
from okno.schedule.resize import Moves
from okno.schedule.step import Limits, Operation, Span

if TYPE_CHECKING:
    from okno.engines.llamacpp import LlamaCpp

RESERVED_CELLS = 1024  # that may be computed until the states are copied
RESERVED_BYTES = 2**20  # what a state is besides its cells


class LlamaResize:
    """engines.resizing.Prepared. options, choice, limits: of the new window.

    States of one KV type fit no other: keys and values are stored differently, quantised ones
    rotated as well (attn_rot_k in llama-kv-cache.cpp), so all is computed again then; also where
    each sequence has a stream and their number changes (a state names the number).
    """

    def __init__(
        self, engine: LlamaCpp, options: WorkerOptions, choice: Choice, limits: Limits
    ) -> None:
        self.window = choice.chosen.window
        self.limits = limits
        self.options = options
        self.choice = choice
        same_streams = options.kv_unified or limits.seq_ids == engine.limits.seq_ids
        self.fits_states = same_streams and self.window.kv_type == engine.window.kv_type
        self.moves = self.fits_states
        self._engine = engine
        self._transfer = Transfer(whole=limits.copies)
        self._keeps_states = True
        self._spare: lib.llama_context_p | None = None

    @property
    def planned(self) -> MemoryPlan:
        return self.choice.chosen.memory

    @property
    def needed_bytes(self) -> int:
        return self.planned.needed_bytes

    def open(self, used_cells: int) -> None:
        """See Prepared."""
        engine = self._engine
        if engine.context is None:
            return
        if fits_beside(self.planned, engine.planned):
            with suppress(DoesNotFit):  # then with the old one gone
                self._spare = engine.open_context(self.choice.chosen.load)
                _warm_up(self._spare, self.window)
        states_bytes = self._states_bytes(used_cells)
        self._keeps_states = self._has_room(states_bytes)
        self.moves = self.fits_states and self._keeps_states
        if self._keeps_states:
            self._transfer.reserve(states_bytes)

    def switch(self, operations: Sequence[Operation], moves: Moves) -> Switched:
        """See Prepared."""
        engine = self._engine
        engine.execute_operations(operations)
        if engine.context is None:
            engine.become(self, None)
            return Switched(moved=True)
        staged = self._spare is None
        wanted = self.moves or (staged and self._keeps_states)
        saved = wanted and self._transfer.save(engine.context, moves)
        if self._spare is None:
            refused = self._open_alone()
            if refused is not None:
                return Switched(self._restored_back(saved), staged, refused=refused)
        self._spare = engine.become(self, self._spare)
        moved = saved and self.moves and self._restored()
        return Switched(moved, staged, self._transfer.size_bytes if moved else 0)

    def release(self) -> None:
        """See Prepared."""
        if self._spare is not None:
            lib.llama_free(self._spare)
            self._spare = None

    def _open_alone(self) -> DoesNotFit | None:
        """Open the new context in the place of the old one, or that again: then why."""
        engine = self._engine
        engine.close_context()
        try:
            self._spare = engine.open_context(self.choice.chosen.load)
        except DoesNotFit as error:
            try:
                engine.reopen()
            except DoesNotFit as lost:
                raise EngineBroken(f"neither the new nor the old window: {lost.message}") from error
            return error
        return None

    def _restored(self) -> bool:
        context = self._engine.context
        return self._transfer.restore(context) or _emptied(context)

    def _restored_back(self, saved: bool) -> bool:
        context = self._engine.context
        return saved and (self._transfer.restore_back(context) or _emptied(context))

    def _states_bytes(self, used_cells: int) -> int:
        """About what the states take."""
        parts = [device.parts for device in self._engine.planned.devices]
        pool = self._engine.window.kv_pool_tokens
        share = min(1.0, (used_cells + RESERVED_CELLS) / pool)
        kept = sum(part.kv_bytes * share + part.state_bytes for part in parts)
        return int(kept) + RESERVED_BYTES

    def _has_room(self, states_bytes: int) -> bool:
        """Main memory for the copies now, and beside the new window when the old one is gone."""
        exact = replace(self.planned, margin_bytes=0)
        later = self._spare is not None or not exact.over_bytes(states_bytes)
        return later and states_bytes <= free_memory().free_bytes


def _warm_up(context: lib.llama_context_p, window: Window) -> None:
    """A step of one row per sequence, so that the first real one finds its memory touched."""
    batch, token = Batch(window.batch_size), np.zeros(1, dtype=np.int32)
    batch.fill([Span("", seq, 0, token, 1) for seq in range(window.batch_size)])
    lib.llama_decode(context, batch.struct)
    _emptied(context)


def _emptied(context: lib.llama_context_p) -> bool:
    """Nothing half restored stays. Returns False: the states are not there."""
    lib.llama_memory_clear(lib.llama_get_memory(context), False)
    return False
