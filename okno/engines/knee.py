"""The curve of step time against rows, measured on the served model before its first request.

Only where no calibration of this machine is known: a few steps of growing row counts in an empty
cache, as long as START_S allows. Serving goes on learning from there (engines/learning.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from okno.engines.learning import Learner
from okno.schedule.step import Span, Step, Truncate

ROWS = (1, 1, 2, 4, 8, 16, 32, 64)  # the first call touches memory: it is run again
START_S = 2.0
LONGEST_S = 1.0


def measure_rows(
    execute: Callable[[Step], NDArray[np.float32]],
    learner: Learner,
    clock: Callable[[], float],
    most_rows: int,
) -> None:
    """Teach `learner` what steps of some row counts take. execute: the engine's, its cache empty,
    as it is left."""
    began = clock()
    for number, rows in enumerate(n for n in ROWS if n <= most_rows):
        step = _step(rows)
        started = clock()
        execute(step)
        taken = clock() - started
        execute(Step((Truncate(0, 0),), ()))
        if number:
            learner.learn(step, rows, taken)
        if taken > LONGEST_S or clock() - began + 2 * taken > START_S:
            return


def _step(rows: int) -> Step:
    tokens = np.arange(1, rows + 1, dtype=np.int32)
    return Step((), (Span("", 0, 0, tokens, 1),))
