"""Keeping the pool short while the loop runs: when to do what schedule/tidy.py finds.

While nothing runs, a sequence at a time, with a look at what has arrived in between. Beside live
sequences only where the steps soon win back the time or have lost as much already: looked at every
few steps.
"""

from __future__ import annotations

from collections.abc import Callable

from okno.engines.engine import Engine
from okno.schedule.scheduler import Scheduler
from okno.schedule.step import Step
from okno.schedule.tidy import lost_s, next_to_tidy, pays, tidy

CALM_S = 0.1  # without work, before the pool is tidied: the next turn may be on its way
LOOK_EVERY = 16  # steps
SHARE_OF_STEP = 0.1  # spent beside live sequences
FIRST_GUESS_BYTE_S = 0.5e-9
LEARNING_RATE = 0.25


class Tidier:
    """Moves sequences of an engine, a piece of work of a few milliseconds per call (a long state
    takes longer: 10 to 20 ms for 130 MB)."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._byte_s = FIRST_GUESS_BYTE_S
        self._steps = self._looked = 0
        self._lost_s = self._each_s = 0.0
        self._live: frozenset[str] = frozenset()
        self._under_way = False

    def idle(self, scheduler: Scheduler) -> bool:
        """Nothing runs: one piece. Whether there was one."""
        return self._piece(scheduler)

    def beside(self, scheduler: Scheduler, step_s: float) -> None:
        """After a step of step_s seconds, if that pays: a piece, and more of them for as long as
        they take but a small part of such a step."""
        self._steps += 1
        live = frozenset(scheduler.live)
        if not self._under_way and (live != self._live or self._steps % LOOK_EVERY == 0):
            self._look(scheduler)
        self._live = live
        until_s = self._clock() + SHARE_OF_STEP * step_s
        while self._under_way:
            self._looked = self._steps
            self._under_way = self._piece(scheduler)
            if self._clock() >= until_s:
                return

    def _look(self, scheduler: Scheduler) -> None:
        """Whether tidying pays now. The steps since the last look lost what one lost then, or now,
        if that is less."""
        each_s = lost_s(scheduler, self._engine.learner)
        since_s = min(each_s, self._each_s) * (self._steps - self._looked)
        before_s = self._lost_s + since_s if each_s else 0.0
        self._under_way = pays(scheduler, each_s, before_s, self._byte_s)
        self._lost_s = 0.0 if self._under_way else before_s
        self._looked, self._each_s = self._steps, each_s

    def _piece(self, scheduler: Scheduler) -> bool:
        piece = next_to_tidy(scheduler)
        if piece is None:
            return False
        seq = piece.sequence.seq
        assert seq is not None
        if not self._engine.prepare_copy(seq):
            return True
        size_bytes = scheduler.limits.stored_bytes(piece.sequence.computed)
        began_s = self._clock()
        tidy(scheduler, piece)
        self._engine.execute(Step(scheduler.cache.take_operations(), ()))
        self._learn((self._clock() - began_s) / max(1, size_bytes))
        return True

    def _learn(self, byte_s: float) -> None:
        self._byte_s += LEARNING_RATE * (byte_s - self._byte_s)
