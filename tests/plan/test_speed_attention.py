from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.plan.speed_attention import (
    Batch,
    Part,
    _seen,
    _tile_cells,
    batch_of,
    fragmentation,
    imbalance,
)  # fmt: skip

PARTS = st.builds(Part, st.integers(1, 4), st.integers(1, 150), st.integers(0, 700))
BATCHES = st.lists(PARTS, min_size=1, max_size=4).map(batch_of)
WINDOWS = st.none() | st.integers(1, 800)


def seen_one_by_one(batch: Batch, window: int | None) -> list[list[range]]:
    """For each row the cells it sees, with the number of its sequence in front."""
    rows = []
    for number, part in enumerate(p for p in batch.parts for _ in range(p.count)):
        for row in range(part.rows):
            end = part.depth + row + 1
            begin = 0 if window is None else max(0, end - window)
            rows.append([range(number, number + 1), range(begin, end)])
    return rows


@given(BATCHES, WINDOWS)
def test_cells_seen_are_those_counted_row_by_row(batch: Batch, window: int | None) -> None:
    expected = sum(len(cells) for _, cells in seen_one_by_one(batch, window))
    assert _seen(batch, window) == expected


@given(BATCHES, WINDOWS)
def test_tiles_span_the_cells_their_rows_see(batch: Batch, window: int | None) -> None:
    rows = seen_one_by_one(batch, window)
    expected = 0
    for first in range(0, len(rows), 64):
        spans: dict[int, list[range]] = {}
        for number, cells in rows[first : first + 64]:
            spans.setdefault(number.start, []).append(cells)
        for cells_of in spans.values():
            width = max(c.stop for c in cells_of) - min(c.start for c in cells_of)
            expected += 64 * (-(-width // 64) * 64)
    # A window begins one cell later than the exclusive count: a tile more or less per span.
    slack = (
        0 if window is None else 64 * 64 * sum(p.count * (2 + p.rows // 64) for p in batch.parts)
    )
    assert abs(_tile_cells(batch, window) - expected) <= slack


@pytest.mark.parametrize(
    ("rows", "n_head", "threads", "factor"),
    [(64, 32, 2, 1.0), (128, 32, 2, 1.0), (64, 9, 1, 1.0), (3, 9, 2, None)],
)
def test_whole_heads_in_even_shares_make_no_fragments(
    rows: int, n_head: int, threads: int, factor: float | None
) -> None:
    if factor is None:
        assert imbalance(rows * n_head, threads) == pytest.approx(15 * 2 / 27)
    else:
        assert fragmentation(rows, n_head, threads) == factor


@given(st.integers(1, 3000), st.integers(1, 64))
def test_no_share_is_better_than_an_even_one(total: int, threads: int) -> None:
    assert imbalance(total, threads) >= 1 - 1e-9
    assert imbalance(total, threads) <= threads


@given(st.integers(1, 600), st.integers(1, 64), st.integers(1, 16))
def test_fragments_never_save_time(rows: int, n_head: int, threads: int) -> None:
    assert fragmentation(rows, n_head, threads) >= 1 - 1e-9
    assert np.isfinite(fragmentation(rows, n_head, threads))
