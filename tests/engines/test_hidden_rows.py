"""HiddenRows against a plain dictionary of positions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.engines.hidden_rows import HiddenRows

WIDTH = 3


class Naive:
    """Every state that was written and is not void."""

    def __init__(self) -> None:
        self.rows: dict[int, float] = {}

    def write(self, start: int, values: list[float]) -> None:
        gap = start - 1 not in self.rows
        self.rows = {p: v for p, v in self.rows.items() if p < start and not gap}
        self.rows.update(enumerate(values, start))


# A step computes some rows at the end, after those that were right of the step before (back), or
# elsewhere (a sequence that is computed again, or goes on behind a shared prefix).
steps = st.lists(
    st.tuples(
        st.integers(0, 4), st.sampled_from([None] * 6 + [0, 3, 50]), st.integers(1, 9),
        st.integers(0, 12),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(steps, st.integers(1, 200))
def test_what_is_held_is_the_last_that_was_written(
    given_steps: list[tuple[int, int | None, int, int]], most: int
) -> None:
    hidden, naive, value = HiddenRows(WIDTH, most), Naive(), 0.0
    for back, jump, count, dropped in given_steps:
        start = jump if jump is not None else max(hidden.first, hidden.end - back)
        values = [value + k for k in range(count)]
        value += count
        hidden.write(start, np.repeat(np.array(values, np.float32), WIDTH).reshape(-1, WIDTH))
        naive.write(start, values)
        assert hidden.end == start + count
        assert 0 < len(hidden) <= most
        held = hidden.read(hidden.first, hidden.end)
        assert held.shape == (len(hidden), WIDTH)
        assert held[:, 1].tolist() == [naive.rows[p] for p in range(hidden.first, hidden.end)]
        hidden.drop_before(hidden.first + dropped)


def test_at_least_half_of_the_most_rows_is_kept() -> None:
    hidden = HiddenRows(1, 100)
    for position in range(1000):
        hidden.write(position, np.full((1, 1), position, np.float32))
        assert len(hidden) >= min(position + 1, 50)


def test_one_write_of_more_than_is_kept_keeps_the_end() -> None:
    hidden = HiddenRows(1, 4)
    hidden.write(0, np.arange(10, dtype=np.float32)[:, np.newaxis])
    assert (hidden.first, hidden.end) == (6, 10)
    assert hidden.read(6, 10)[:, 0].tolist() == [6, 7, 8, 9]
