"""What a step with guesses is predicted to cost, asked for every number of guesses in every step.

A prediction takes 30 us, so that all of them took half a millisecond: half a step of a small model.
They are kept for a few steps, as long as the step without guesses is predicted the same.
"""

from __future__ import annotations

from okno.engines.engine import Engine
from okno.schedule.cost import Ahead

ALIKE = 0.01
KEPT_STEPS = 16  # of what the steps teach meanwhile it knows nothing


class GuessCost:
    """The StepCost that the learner of `engine` predicts; a resize brings another learner. It is
    asked for the cost without guesses once a step, before those with: as long as that is ALIKE,
    they are at most KEPT_STEPS old."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows = (0, 0)
        self._plain_s = 0.0
        self._steps = 0
        self._with_guesses: dict[int, float] = {}

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        """See StepCost."""
        rows = (ahead.decodes, prompt_rows)
        if guesses and rows == self._rows:
            if guesses not in self._with_guesses:
                self._with_guesses[guesses] = self._asked(ahead, prompt_rows, guesses)
            return self._with_guesses[guesses]
        seconds = self._asked(ahead, prompt_rows, guesses)
        if not guesses:
            self._steps += 1
            if not self._is_alike(rows, seconds) or self._steps > KEPT_STEPS:
                self._rows, self._plain_s, self._steps, self._with_guesses = rows, seconds, 1, {}
        return seconds

    def _asked(self, ahead: Ahead, prompt_rows: int, guesses: int) -> float:
        return self._engine.learner.seconds(ahead, prompt_rows, guesses)

    def _is_alike(self, rows: tuple[int, int], plain_s: float) -> bool:
        return rows == self._rows and abs(plain_s - self._plain_s) <= ALIKE * self._plain_s
