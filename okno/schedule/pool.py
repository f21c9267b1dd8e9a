"""The KV pool's books: which cells are used, and by how many sequences.

Mirrors llama.cpp's unified cache (src/llama-kv-cells.h): a cell holds one token at one position and
may belong to several sequences; it is free when the last of them lets go. The engine keeps its own
placement; what must agree is the count. Both take the lowest free cells (src/llama-kv-cache.cpp:
find_slot searches from `head`, and seq_rm sets that back to the first cell it frees, so no free one
is ever below it); so the numbers agree too, but for the order within a step. They tell how far a
step walks: attention goes over all cells up to the highest used one (get_n_kv).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int32]

LOOK_AT = 64  # cells in which to look for free ones first


class KVPool:
    """`size` cells, each with a count of the sequences that hold it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._holders = np.zeros(size, dtype=np.int32)
        self._free = size
        self._lowest = 0  # no free cell is below
        self._end = 0  # no used cell is from here on

    @property
    def free(self) -> int:
        return self._free

    @property
    def used(self) -> int:
        return self.size - self._free

    @property
    def end(self) -> int:
        """Cells up to the highest used one."""
        if self._end and not self._holders[self._end - 1]:
            used = self._holders[: self._end] > 0
            self._end = self._end - int(used[::-1].argmax()) if self.used else 0
        return self._end

    def allocate(self, count: int) -> Cells:
        """The `count` lowest free cells, now held once. The caller has checked `free`."""
        assert count <= self._free, "the scheduler allocated more cells than are free"
        if not count:
            return np.empty(0, dtype=np.int32)
        cells = self._lowest_free(count)
        self._free -= count
        self._holders[cells] = 1
        last = int(cells[-1]) + 1
        self._lowest, self._end = last, max(self._end, last)
        return cells

    def _lowest_free(self, count: int) -> Cells:
        look = max(LOOK_AT, 2 * count)
        while True:
            found = np.flatnonzero(self._holders[self._lowest : self._lowest + look] == 0)
            if len(found) >= count:
                return (found[:count] + self._lowest).astype(np.int32)
            look *= 4

    def share(self, cells: Cells) -> None:
        """One more sequence holds `cells`."""
        self._holders[cells] += 1

    def release(self, cells: Cells) -> None:
        """One sequence less holds `cells`; those nobody holds become free."""
        self._holders[cells] -= 1
        empty = cells[self._holders[cells] == 0]
        if len(empty):
            self._lowest = min(self._lowest, int(empty.min()))
            self._free += len(empty)

    def is_held_once(self, cells: Cells) -> bool:
        """Only one sequence holds each of `cells`."""
        return bool((self._holders[cells] == 1).all())

    def distinct(self, holdings: Iterable[Cells]) -> int:
        """How many different cells `holdings` name."""
        named = np.zeros(self.size, dtype=np.bool_)
        for cells in holdings:
            named[cells] = True
        return int(np.count_nonzero(named))
