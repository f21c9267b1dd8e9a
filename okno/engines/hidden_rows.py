"""The last hidden states of a sequence, kept until its prediction head has read them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FIRST_ROWS = 64

Rows = NDArray[np.float32]


class HiddenRows:
    """Rows of `width` values for the positions from `first` up to `end`, without a gap. Of more
    than most_rows the oldest are lost, about half of them at once, so that rows seldom move."""

    def __init__(self, width: int, most_rows: int) -> None:
        self.first = self.end = 0
        self._most = max(1, most_rows)
        self._rows: Rows = np.empty((min(FIRST_ROWS, self._most), width), dtype=np.float32)
        self._at = 0  # where the row of `first` lies

    def write(self, start: int, rows: Rows) -> None:
        """The states of the positions from `start` on. What was there of later ones is void, and
        of earlier ones too where some between are missing."""
        if not self.first <= start <= self.end:
            self.first = start
        self.end = start
        if len(rows) > self._most:
            self.first = self.end = start + len(rows) - self._most
            rows = rows[-self._most :]
        at = self._room_for(len(rows))
        self._rows[at : at + len(rows)] = rows
        self.end += len(rows)

    def read(self, start: int, end: int) -> Rows:
        """The states of positions `start` to `end`, all of them held; a view."""
        at = self._at - self.first
        return self._rows[at + start : at + end]

    def drop_before(self, position: int) -> None:
        """Nothing before `position` will be read."""
        dropped = min(max(0, position - self.first), self.end - self.first)
        self.first += dropped
        self._at += dropped

    def _room_for(self, count: int) -> int:
        """Where the next `count` rows go."""
        if len(self) + count > self._most:
            self.drop_before(self.end - (self._most - count) // 2)
        held = self.read(self.first, self.end)
        if self._at + len(held) + count > len(self._rows):
            size = len(self._rows)
            if len(held) + count > size:
                size = min(self._most, 2 * (len(held) + count))
                self._rows = np.empty((size, self._rows.shape[1]), dtype=np.float32)
            self._rows[: len(held)] = held
            self._at = 0
        return self._at + len(held)

    def __len__(self) -> int:
        return self.end - self.first
