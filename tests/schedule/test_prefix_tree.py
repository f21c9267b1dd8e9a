from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from okno.schedule.prefix_tree import PrefixTree
from okno.schedule.sequence import Sequence, common_prefix


def holder(id: str, tokens: list[int], salt: str = "") -> Sequence:
    return Sequence(id, tokens, max_tokens=len(tokens) + 1, salt=salt)


def array(tokens: list[int]):
    return np.array(tokens, dtype=np.int32)


def test_the_longest_beginning_and_who_holds_it() -> None:
    tree = PrefixTree()
    tree.put(holder("a", [1, 2, 3, 4]), 4)
    tree.put(holder("b", [1, 2, 9]), 3)
    match = tree.longest(array([1, 2, 3, 7]), "")
    assert match is not None
    assert match.length == 3
    assert [s.id for s in match.node.below()] == ["a"]
    assert [node.end for node in match.path] == [2]


def test_salts_never_meet() -> None:
    tree = PrefixTree()
    tree.put(holder("a", [1, 2, 3], salt="anna"), 3)
    assert tree.longest(array([1, 2, 3]), "boris") is None
    assert tree.longest(array([1, 2, 3]), "anna") is not None


def test_a_sequence_that_grows_is_held_once() -> None:
    tree = PrefixTree()
    growing = holder("a", list(range(10)))
    for length in (3, 7, 10):
        tree.put(growing, length)
    assert (len(tree), tree.n_nodes) == (1, 1)
    tree.remove(growing)
    assert (len(tree), tree.n_nodes) == (0, 0)


PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.sampled_from(["", "s"])),
    max_size=12,
)


@given(PROMPTS, st.lists(st.integers(0, 2), max_size=8), st.sets(st.integers(0, 11)))
def test_it_finds_what_comparing_with_every_sequence_finds(
    prompts: list[tuple[list[int], str]], asked: list[int], leaving: set[int]
) -> None:
    tree = PrefixTree()
    held = {k: holder(str(k), tokens, salt) for k, (tokens, salt) in enumerate(prompts)}
    for sequence in held.values():
        tree.put(sequence, len(sequence.known))
    for k in leaving & held.keys():
        tree.remove(held.pop(k))
    for salt in ("", "s"):
        lengths = {
            s.id: common_prefix(array(asked), s.known.view())
            for s in held.values()
            if s.salt == salt
        }
        best = max(lengths.values(), default=0)
        match = tree.longest(array(asked), salt)
        assert (match.length if match else 0) == best
        if match is not None:
            assert {s.id for s in match.node.below()} == {
                i for i, n in lengths.items() if n == best
            }
            for node in match.path:
                assert all(
                    s.known.view()[: node.end].tolist() == asked[: node.end] for s in node.below()
                )
    assert len(tree) == len(held)
    for sequence in held.values():
        tree.remove(sequence)
    assert tree.n_nodes == 0
