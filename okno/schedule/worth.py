"""What a parked prefix is worth: hits x cost of computing it again / cells, aged.

GreedyDual-Size-Frequency (Cherkasova 1998): the worth is set against a clock that moves to the
worth of what was given up last, so that prefixes nobody came back to are overtaken by newer ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from okno.schedule.sequence import Sequence

# A row that sees so many cells costs twice a row that sees none (1 B Q4_0 on 2 cores: a prompt of
# 2,048 tokens takes 4.3 times as long as one of 512: docs/benchmarks/plan-accuracy-speed.md).
DEPTH_DOUBLES = 8192


def rank(sequence: Sequence) -> tuple[float, int]:
    """Orders by worth; of equals the one that was of use last is worth more."""
    return sequence.worth, sequence.parked_at


class Worths:
    """Sets and compares the worth of parked sequences."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._touches = 0

    def touch(self, sequence: Sequence, tokens: int) -> None:
        """`sequence`, which keeps so many tokens, is parked now or was of use."""
        self._touches += 1
        sequence.parked_at = self._touches
        cost_per_cell = 1 + tokens / (2 * DEPTH_DOUBLES)
        sequence.worth = self._clock + (1 + sequence.hits) * cost_per_cell

    def least(self, sequences: Iterable[Sequence]) -> Sequence | None:
        """The one to give up; of equals that of longest ago."""
        return min(sequences, key=rank, default=None)

    def gave_up(self, sequence: Sequence) -> None:
        """`sequence` was given up for its worth."""
        self._clock = max(self._clock, sequence.worth)
