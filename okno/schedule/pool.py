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

LOOK_AT = 4096  # cells in which free ones are looked for at once
FEW, MANY = 1024, 8192  # known free cells that are worth keeping in order


class KVPool:
    """`size` cells, each with a count of the sequences that hold it.

    The free cells below a horizon are known, in order, so that each step costs what it takes and
    not what lies in the pool: a cell is looked at when the horizon passes it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._holders = np.zeros(size, dtype=np.int32)
        self._free = size
        self._known = np.empty(0, dtype=np.int32)  # the free cells below the horizon, ascending
        self._horizon = 0
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
        while self._end and not self._holders[self._end - 1]:
            begin = max(0, self._end - LOOK_AT)
            used = np.flatnonzero(self._holders[begin : self._end])
            self._end = begin + int(used[-1]) + 1 if len(used) else begin
        return self._end

    def allocate(self, count: int) -> Cells:
        """The `count` lowest free cells, now held once. The caller has checked `free`."""
        assert count <= self._free, "the scheduler allocated more cells than are free"
        if not count:
            return np.empty(0, dtype=np.int32)
        self._know(count)
        cells, self._known = self._known[:count], self._known[count:]
        self._free -= count
        self._holders[cells] = 1
        self._end = max(self._end, int(cells[-1]) + 1)
        return cells

    def _know(self, count: int) -> None:
        """Move the horizon until `count` free cells are below it."""
        found, missing = [self._known], count - len(self._known)
        while missing > 0:
            assert self._horizon < self.size, "as many cells are free as the books say"
            begin, self._horizon = self._horizon, min(self.size, self._horizon + LOOK_AT)
            free = np.flatnonzero(self._holders[begin : self._horizon] == 0)
            found.append((free + begin).astype(np.int32))
            missing -= len(free)
        if len(found) > 1:
            self._known = np.concatenate(found)

    def share(self, cells: Cells) -> None:
        """One more sequence holds `cells`."""
        self._holders[cells] += 1

    def release(self, cells: Cells) -> None:
        """One sequence less holds `cells`; those nobody holds become free."""
        self._holders[cells] -= 1
        empty = cells[self._holders[cells] == 0]
        self._free += len(empty)
        below = empty[empty < self._horizon]
        if len(below):
            self._known = np.sort(np.concatenate([self._known, below]))
        if len(self._known) > MANY:
            self._known = self._known[:FEW]
            self._horizon = int(self._known[-1]) + 1

    def is_held_once(self, cells: Cells) -> bool:
        """Only one sequence holds each of `cells`."""
        return bool((self._holders[cells] == 1).all())

    def distinct(self, holdings: Iterable[Cells]) -> int:
        """How many different cells `holdings` name."""
        named = np.zeros(self.size, dtype=np.bool_)
        for cells in holdings:
            named[cells] = True
        return int(np.count_nonzero(named))
