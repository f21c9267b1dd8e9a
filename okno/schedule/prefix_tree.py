"""Which sequences hold the longest beginning of a prompt: a radix tree over what is computed.

An edge carries a run of tokens; a node has owners, the sequences that end there. Every sequence
below a node holds the tokens up to it. Looking up costs a numpy comparison per node on the way, not
one per sequence. Sequences of different salts never meet (SGLang's RadixAttention, Zheng et al.
2024, with the salt of vLLM's prefix cache).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from okno.schedule.sequence import Sequence, common_prefix

Tokens = NDArray[np.int32]
NO_TOKENS = np.empty(0, dtype=np.int32)


@dataclass(slots=True, eq=False)
class Node:
    """end: tokens from the root to the end of `edge`."""

    edge: Tokens
    end: int
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    owners: dict[str, Sequence] = field(default_factory=dict)

    def below(self) -> Iterator[Sequence]:
        """The owners of this node and of all under it, nearest first."""
        level = [self]
        while level:
            for node in level:
                yield from node.owners.values()
            level = [child for node in level for child in node.children.values()]


@dataclass(frozen=True, slots=True)
class Match:
    """length: tokens that all sequences of `node.below()` begin with. path: the nodes on the way
    that end within it, deepest first."""

    length: int
    node: Node
    path: tuple[Node, ...]

    def places(self) -> Iterator[tuple[int, Node]]:
        """(length, node) of this and all shorter beginnings that end at a node, longest first."""
        if not self.path or self.path[0].end < self.length:
            yield self.length, self.node
        for node in self.path:
            yield node.end, node


class PrefixTree:
    """The computed beginnings of sequences, live and parked, by salt."""

    def __init__(self) -> None:
        self._roots: dict[str, Node] = {}
        self._places: dict[str, Node] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id: str) -> bool:
        return id in self._places

    @property
    def n_nodes(self) -> int:
        """Without the roots."""
        return sum(self._count(root) - 1 for root in self._roots.values())

    def put(self, sequence: Sequence, length: int) -> None:
        """`sequence` holds its first `length` known tokens; what it held before is forgotten."""
        self.remove(sequence)
        if length == 0:
            return
        root = self._roots.setdefault(sequence.salt, Node(NO_TOKENS, 0, None))
        node = self._node_at(root, sequence.known.view()[:length])
        node.owners[sequence.id] = sequence
        self._places[sequence.id] = node

    def remove(self, sequence: Sequence) -> None:
        """Forget `sequence`; unknown ones are ignored."""
        node = self._places.pop(sequence.id, None)
        if node is None:
            return
        del node.owners[sequence.id]
        self._tidy(node)
        if sequence.salt in self._roots and not self._roots[sequence.salt].children:
            del self._roots[sequence.salt]

    def longest(self, tokens: Tokens, salt: str) -> Match | None:
        """The longest beginning of `tokens` that a sequence of this salt holds."""
        node = self._roots.get(salt)
        if node is None:
            return None
        path: list[Node] = []
        at = 0
        while at < len(tokens) and (child := node.children.get(int(tokens[at]))) is not None:
            common = common_prefix(child.edge, tokens[at:])
            at += common
            node = child
            if common < len(child.edge):
                break
            path.append(child)
        return Match(at, node, tuple(reversed(path))) if at else None

    def _node_at(self, root: Node, tokens: Tokens) -> Node:
        """The node that ends exactly with `tokens`, made where it is missing."""
        node, at = root, 0
        while at < len(tokens):
            child = node.children.get(int(tokens[at]))
            if child is None:
                return self._grown(node, tokens[at:])
            common = common_prefix(child.edge, tokens[at:])
            node = child if common == len(child.edge) else self._split(child, common)
            at += common
        return node

    def _grown(self, node: Node, tokens: Tokens) -> Node:
        child = Node(tokens.copy(), node.end + len(tokens), node)
        node.children[int(tokens[0])] = child
        return child

    def _split(self, node: Node, length: int) -> Node:
        """Cut the edge of `node` after `length` tokens; returns the new node before it."""
        assert node.parent is not None
        upper = Node(node.edge[:length].copy(), node.end - len(node.edge) + length, node.parent)
        node.parent.children[int(node.edge[0])] = upper
        node.edge, node.parent = node.edge[length:].copy(), upper
        upper.children[int(node.edge[0])] = node
        return upper

    def _tidy(self, node: Node) -> None:
        """Drop `node` if nobody needs it, and join an only child to its edge."""
        while node.parent is not None and not node.owners and not node.children:
            parent = node.parent
            del parent.children[int(node.edge[0])]
            node = parent
        if node.parent is not None and not node.owners and len(node.children) == 1:
            [child] = node.children.values()
            child.edge, child.parent = np.concatenate([node.edge, child.edge]), node.parent
            node.parent.children[int(child.edge[0])] = child

    def _count(self, node: Node) -> int:
        nodes, level = 0, [node]
        while level:
            nodes += len(level)
            level = [child for one in level for child in one.children.values()]
        return nodes
