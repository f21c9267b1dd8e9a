"""What a step costs by its rows, as measured: a running figure for each row count that ran.

Between two counts that ran the cost is drawn straight; below the least it falls and above the most
it grows in proportion, the latter at half the rate: rows that nobody tried look dear, but not so
dear that they are never tried. Of the first measurements the least counts, a later one moves the
figure by an eighth at most: neither a cold start nor a neighbour's burst stays for long.
"""

from __future__ import annotations

from bisect import bisect_left, insort

LEARNING_RATE = 0.25
MOST_JUMP = 1.5
UNKNOWN_GROWTH = 0.5
FEW_SAMPLES = 3  # the first step of a kind is often slow: graphs are built, pages touched


class RowCost:
    """drafting.StepCost of what ran; cells and outputs are taken to go with the rows."""

    def __init__(self) -> None:
        self._counts: list[int] = []  # row counts that ran, ascending
        self._seconds: dict[int, float] = {}
        self._samples: dict[int, int] = {}

    def learn(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows took `seconds`."""
        samples = self._samples.get(rows, 0)
        self._samples[rows] = samples + 1
        if samples == 0:
            insort(self._counts, rows)
            self._seconds[rows] = seconds
            return
        known = self._seconds[rows]
        if samples < FEW_SAMPLES:
            self._seconds[rows] = min(known, seconds)
            return
        bounded = min(max(seconds, known / MOST_JUMP), known * MOST_JUMP)
        self._seconds[rows] = known + LEARNING_RATE * (bounded - known)

    def is_known(self, rows: int) -> bool:
        """Enough steps of `rows` rows ran for their figure to be more than a first impression."""
        return self._samples.get(rows, 0) >= FEW_SAMPLES

    def seconds(self, rows: int, cells: int = 0, outputs: int = 0) -> float:
        """Predicted seconds of a step; 0 before anything ran."""
        if not self._counts:
            return 0.0
        at = bisect_left(self._counts, rows)
        if at < len(self._counts) and self._counts[at] == rows:
            return self._seconds[rows]
        if at == 0:
            return self._seconds[self._counts[0]] * rows / self._counts[0]
        low = self._counts[at - 1]
        low_s = self._seconds[low]
        if at == len(self._counts):
            return low_s * (1 + UNKNOWN_GROWTH * (rows / low - 1))
        high = self._counts[at]
        return low_s + (self._seconds[high] - low_s) * (rows - low) / (high - low)
