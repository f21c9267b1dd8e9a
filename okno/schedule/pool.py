"""The KV pool's books: which cells are used, and by how many sequences.

Mirrors llama.cpp's unified cache exactly (src/llama-kv-cells.h): a cell holds one token at one
position and may belong to several sequences; it is free when the last of them lets go. The cells
here are only numbered, the engine keeps its own placement: what must agree is the count.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int32]


class KVPool:
    """`size` cells, each with a count of the sequences that hold it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._holders = np.zeros(size, dtype=np.int32)
        self._stack = np.arange(size - 1, -1, -1, dtype=np.int32)
        self._free = size

    @property
    def free(self) -> int:
        return self._free

    @property
    def used(self) -> int:
        return self.size - self._free

    def allocate(self, count: int) -> Cells:
        """`count` free cells, now held once. The caller has checked `free`."""
        assert count <= self._free, "the scheduler allocated more cells than are free"
        cells = self._stack[self._free - count : self._free].copy()
        self._free -= count
        self._holders[cells] = 1
        return cells

    def share(self, cells: Cells) -> None:
        """One more sequence holds `cells`."""
        self._holders[cells] += 1

    def release(self, cells: Cells) -> None:
        """One sequence less holds `cells`; those nobody holds become free."""
        self._holders[cells] -= 1
        empty = cells[self._holders[cells] == 0]
        self._stack[self._free : self._free + len(empty)] = empty
        self._free += len(empty)

    def distinct(self, holdings: Iterable[Cells]) -> int:
        """How many different cells `holdings` name."""
        named = np.zeros(self.size, dtype=np.bool_)
        for cells in holdings:
            named[cells] = True
        return int(np.count_nonzero(named))
