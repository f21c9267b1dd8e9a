"""What a parked prefix is worth: hits x cost of computing it again / cells, aged.

GreedyDual-Size-Frequency (Cherkasova 1998): the worth is set against a clock that moves to the
worth of what was given up last, so that prefixes nobody came back to are overtaken by newer ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from operator import attrgetter

from okno.schedule.sequence import Sequence

# A row that sees so many cells costs twice a row that sees none (1 B Q4_0 on 2 cores: a prompt of
# 2,048 tokens takes 4.3 times as long as one of 512: docs/benchmarks/plan-accuracy-speed.md).
DEPTH_DOUBLES = 8192
FEW = 64  # entries that need no tidying


# Orders by worth; of equals the one that was of use last is worth more.
rank: Callable[[Sequence], tuple[float, int]] = attrgetter("worth", "parked_at")


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

    def gave_up(self, sequence: Sequence) -> None:
        """`sequence` was given up for its worth."""
        self._clock = max(self._clock, sequence.worth)


class Ranking:
    """Finds the least of many sequences whose ranks only rise while they are in it: a heap whose
    entries are brought up to date when they come to the top. is_in: says who is; others are
    forgotten."""

    def __init__(self, is_in: Callable[[Sequence], bool]) -> None:
        self._is_in = is_in
        self._heap: list[tuple[tuple[float, int], int, Sequence]] = []
        self._numbers = count()  # so that sequences are never compared
        self._tidy_at = FEW

    def __len__(self) -> int:
        """With entries that are out of date."""
        return len(self._heap)

    def add(self, sequence: Sequence) -> None:
        """`sequence`, with its rank of now; again if it was in it before."""
        heapq.heappush(self._heap, (rank(sequence), next(self._numbers), sequence))
        if len(self._heap) > self._tidy_at:
            members = {
                one.id: one for _, _, one in self._heap if one is sequence or self._is_in(one)
            }
            self._heap = [(rank(one), next(self._numbers), one) for one in members.values()]
            heapq.heapify(self._heap)
            self._tidy_at = 2 * len(self._heap) + FEW

    def least(self, but: Sequence | None = None) -> Sequence | None:
        """The one of lowest rank, `but` left out; None: there is none."""
        self._tidy_top()
        if not self._heap or self._heap[0][2] is not but:
            return self._heap[0][2] if self._heap else None
        aside = heapq.heappop(self._heap)
        found = self.least(but)
        heapq.heappush(self._heap, aside)
        return found

    def _tidy_top(self) -> None:
        while self._heap:
            ranked, _, sequence = self._heap[0]
            if self._is_in(sequence) and ranked == rank(sequence):
                return
            heapq.heappop(self._heap)
            if self._is_in(sequence):
                self.add(sequence)
