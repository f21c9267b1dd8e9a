from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.schedule.pool import LOOK_AT, KVPool

SIZE = 300
changes = st.lists(
    st.one_of(st.tuples(st.just("allocate"), st.integers(0, 200)),
              st.tuples(st.just("release"), st.integers(0, 50)),
              st.tuples(st.just("share"), st.integers(0, 50))),
    max_size=40,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(changes)
def test_the_lowest_free_cells_are_taken_and_none_is_lost(changes: list[tuple[str, int]]) -> None:
    pool = KVPool(SIZE)
    holdings = []  # of sequences: their cells
    for what, number in changes:
        held = {int(cell) for cells in holdings for cell in cells}
        if what == "allocate" and number <= pool.free:
            cells = pool.allocate(number)
            assert cells.tolist() == [c for c in range(SIZE) if c not in held][:number]
            holdings.append(cells)
        elif what == "release" and number < len(holdings):
            pool.release(holdings.pop(number))
        elif what == "share" and number < len(holdings):
            pool.share(holdings[number])
            holdings.append(holdings[number])
        held = {int(cell) for cells in holdings for cell in cells}
        assert (pool.used, pool.free) == (len(held), SIZE - len(held))
        assert pool.end == max(held, default=-1) + 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_large_pool_with_holes_gives_its_lowest_cells_too(seed: int) -> None:
    """Larger than what is looked at and what is kept in order at once."""
    random = np.random.default_rng(seed)
    size = 8 * LOOK_AT
    pool, used = KVPool(size), np.zeros(size, dtype=bool)
    holdings: list[np.ndarray] = []
    while pool.free:
        holdings.append(pool.allocate(min(pool.free, int(random.integers(1, 400)))))
        used[holdings[-1]] = True
    for turn in range(300):
        if turn == 200:  # nearly all go, in any order: more becomes free than is kept in order
            for _ in range(len(holdings) * 3 // 4):
                gone = holdings.pop(int(random.integers(0, len(holdings))))
                pool.release(gone)
                used[gone] = False
        if random.random() < 0.5 and holdings:
            gone = holdings.pop(int(random.integers(0, len(holdings))))
            pool.release(gone)
            used[gone] = False
        elif pool.free:
            count = min(pool.free, int(random.integers(1, 100)))
            cells = pool.allocate(count)
            assert np.array_equal(cells, np.flatnonzero(~used)[:count])
            holdings.append(cells)
            used[cells] = True
        assert pool.used == np.count_nonzero(used)
        assert pool.end == max(np.flatnonzero(used), default=-1) + 1


def test_cells_that_two_hold_are_not_held_once() -> None:
    pool = KVPool(8)
    cells = pool.allocate(4)
    assert pool.is_held_once(cells)
    pool.share(cells[2:])
    assert not pool.is_held_once(cells)
    assert pool.is_held_once(cells[:2])
