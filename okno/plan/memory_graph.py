"""The scratch memory of a computation graph: a model of ggml's graph allocator.

Follows ggml-alloc.c (`ggml_gallocr_alloc_graph_impl`, `ggml_dyn_tallocr_alloc`): tensors are placed
in the order they are computed, each in the best fitting free block; a tensor is freed after its
last reader; some operations write over their first operand. A graph of a few layers gives the same
peak as that of all, because layers repeat.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

ALIGNMENT = 32  # TENSOR_ALIGNMENT of the CPU backend
OUTSIDE = -1


@dataclass(slots=True)
class _Node:
    """n_bytes 0 with outside True: memory of its own (a cache row being written). view_of: the
    tensor whose memory it shows."""

    n_bytes: int
    sources: tuple[int, ...]
    over: tuple[int, ...] = ()
    view_of: int = OUTSIDE
    outside: bool = False
    kept: bool = False


@dataclass(slots=True)
class Graph:
    """Tensors of one step, named by their number. Add them in the order of computation."""

    _nodes: list[_Node] = field(default_factory=list)
    _inputs: list[int] = field(default_factory=list)

    def input(self, n_bytes: int, before: int | None = None) -> int:
        """A tensor filled before the step: placed first (before another input), freed after its
        last reader."""
        at = len(self._inputs) if before is None else self._inputs.index(before)
        self._inputs.insert(at, len(self._nodes))
        return self._add(_Node(n_bytes, ()))

    def compute(
        self, n_bytes: int, *sources: int, over: tuple[int, ...] = (), kept: bool = False
    ) -> int:
        """A result. over: the operands it may overwrite (same layout, an operation that can).
        kept: an output, never freed."""
        return self._add(_Node(n_bytes, sources, over, kept=kept))

    def over(self, source: int, *others: int, kept: bool = False) -> int:
        """A result as large as `source`, written over it when nobody else reads it."""
        root = self._root(source)
        n_bytes = self._nodes[root].n_bytes
        return self.compute(n_bytes, source, *others, over=(source,), kept=kept)

    def keep(self, tensor: int) -> None:
        """It is an output too: neither freed nor written over."""
        self._nodes[self._root(tensor)].kept = True

    def view(self, source: int) -> int:
        """Another look at the memory of `source`: reshape, permute, a part of it."""
        return self._add(_Node(0, (source,), view_of=self._root(source)))

    def write(self, *sources: int) -> int:
        """Sources are copied to memory outside the graph."""
        return self._add(_Node(0, sources, outside=True))

    def peak_bytes(self) -> int:
        """The size of the compute buffer."""
        return _Allocation(self._nodes, self._inputs).peak_bytes

    def _add(self, node: _Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _root(self, tensor: int) -> int:
        view_of = self._nodes[tensor].view_of
        return tensor if view_of == OUTSIDE else view_of


class _Allocation:
    """One pass over a graph."""

    def __init__(self, nodes: list[_Node], inputs: list[int]) -> None:
        self._nodes = nodes
        self._readers = [0] * len(nodes)
        self._views = [0] * len(nodes)
        self._place: dict[int, int] = {}  # tensor: offset of the memory it owns
        self._free: list[tuple[int, int]] = []  # (offset, bytes), below the end
        self._end = 0
        self.peak_bytes = 0
        self._count()
        for tensor in inputs:
            self._place[tensor] = self._take(nodes[tensor].n_bytes)
        for tensor, node in enumerate(nodes):
            self._compute(tensor, node)

    def _count(self) -> None:
        for node in self._nodes:
            if node.view_of != OUTSIDE:
                self._views[node.view_of] += 1
            for source in node.sources:
                self._readers[source] += 1

    def _compute(self, tensor: int, node: _Node) -> None:
        placed = node.outside or node.view_of != OUTSIDE or tensor in self._place
        if not placed and not self._overwrite(tensor, node):
            self._place[tensor] = self._take(node.n_bytes)
        for source in node.sources:
            self._readers[source] -= 1
            if self._readers[source] == 0 and self._views[source] == 0:
                self._done(source)

    def _overwrite(self, tensor: int, node: _Node) -> bool:
        for source in node.over:
            rest = _aligned(self._nodes[source].n_bytes) - _aligned(node.n_bytes)
            if rest < 0 or not self._is_last_reader(source):
                continue
            place = self._place.pop(source)
            self._place[tensor] = place
            if rest > 0:
                self._give(place + _aligned(node.n_bytes), rest)
            return True
        return False

    def _is_last_reader(self, source: int) -> bool:
        """`source` owns its memory (a view never counts as owner) and is read for the last time."""
        if self._readers[source] != 1 or self._views[source] != 0 or self._nodes[source].kept:
            return False
        return source in self._place

    def _done(self, tensor: int) -> None:
        """Nobody reads it any more."""
        owner = self._nodes[tensor].view_of
        if owner == OUTSIDE:
            self._release(tensor)
            return
        self._views[owner] -= 1
        if self._views[owner] == 0 and self._readers[owner] == 0:
            self._release(owner)

    def _release(self, tensor: int) -> None:
        if tensor in self._place and not self._nodes[tensor].kept:
            self._give(self._place.pop(tensor), _aligned(self._nodes[tensor].n_bytes))

    def _take(self, n_bytes: int) -> int:
        """The offset of a place for n_bytes: the smallest hole that is large enough (the later one
        of two alike), else at the end."""
        wanted = _aligned(n_bytes)
        best = -1
        for at, (_, size) in enumerate(self._free):
            if size >= wanted and (best < 0 or size <= self._free[best][1]):
                best = at
        if best < 0:
            offset = self._end
            self._end += wanted
            self.peak_bytes = max(self.peak_bytes, self._end)
            return offset
        offset, size = self._free.pop(best)
        if size > wanted:
            self._free.insert(best, (offset + wanted, size - wanted))
        return offset

    def _give(self, offset: int, n_bytes: int) -> None:
        """Free a place; neighbouring holes become one, and one at the end disappears."""
        if n_bytes == 0:
            return
        insort(self._free, (offset, n_bytes))
        at = self._free.index((offset, n_bytes))
        if at + 1 < len(self._free) and offset + n_bytes == self._free[at + 1][0]:
            n_bytes += self._free.pop(at + 1)[1]
            self._free[at] = (offset, n_bytes)
        if at > 0 and sum(self._free[at - 1]) == offset:
            offset, n_bytes = self._free[at - 1][0], n_bytes + self._free[at - 1][1]
            self._free[at - 1 : at + 1] = [(offset, n_bytes)]
        if self._free[-1][0] + self._free[-1][1] == self._end:
            self._end = self._free.pop()[0]


def _aligned(n_bytes: int) -> int:
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
