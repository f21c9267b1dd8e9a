from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.calibration import AttentionCost, Curve
from okno.plan.speed_attention import (
    Attention,
    Batch,
    Part,
    _seen,
    _tile_cells,
    batch_of,
    fragmentation,
    imbalance,
    padded,
)  # fmt: skip
from okno.plan.speed_work import AttentionLayers

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


def flat(seconds: float) -> Curve:
    return Curve((1,), (seconds,), (0.0,))


@given(BATCHES, WINDOWS)
def test_the_first_row_of_a_sequence_fetches_its_cells_and_the_others_find_them(
    batch: Batch, window: int | None
) -> None:
    cost = AttentionCost("f16", 64, flat(7.0), flat(5.0), None, 0.0, again=flat(2.0))
    layers = AttentionLayers(1, 4, 2, 64.0, window)
    expected = 0.0
    for part in batch.parts:
        rows = seen_one_by_one(batch_of([Part(1, part.rows, part.depth)]), window)
        seen = [len(cells) for _, cells in rows]
        different = len({cell for _, cells in rows for cell in cells})
        expected += part.count * (5.0 * different + 2.0 * (sum(seen) - different))
    if batch.n_rows > 1:
        uneven = imbalance(batch.n_rows * 4, 1)
        found = Attention(layers, cost, threads=1).seconds(batch)
        assert found == pytest.approx(4 * expected * uneven)


@given(BATCHES, WINDOWS)
def test_tiles_span_the_cells_their_rows_see(batch: Batch, window: int | None) -> None:
    """Against a pool in which each sequence's cells lie side by side: a tile of rows works on every
    tile of cells that one of its rows sees."""
    rows = seen_one_by_one(batch, window)
    sizes = [p.depth + p.rows for p in batch.parts for _ in range(p.count)]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    expected = slack = 0
    for first in range(0, len(rows), 64):
        tile = rows[first : first + 64]
        touched = {
            (starts[number.start] + cell) // 64 for number, cells in tile for cell in cells[::64]
        } | {(starts[number.start] + cells[-1]) // 64 for number, cells in tile}
        expected += len(touched)
        slack += 1 + len({number.start for number, _ in tile}) * (1 if window is None else 2)
    assert abs(_tile_cells(batch, window, batch.walked) // 64**2 - expected) <= slack


def test_a_tile_of_rows_never_works_on_more_than_the_pool() -> None:
    sixteen = batch_of([Part(15, 1, 130), Part(1, 64, 0)])
    assert _tile_cells(sixteen, None, sixteen.walked) <= 2 * 64 * padded(sixteen.walked)
    apart = sum(64 * -(-131 // 64) * 64 for _ in range(15))
    assert _tile_cells(sixteen, None, sixteen.walked) < apart + 2 * 64 * 64


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


@pytest.mark.parametrize(("threads", "seen", "skipped"), [(1, 101, 923), (2, 202, 822)])
def test_a_single_row_skips_the_cells_of_others(threads: int, seen: int, skipped: int) -> None:
    """The threads split the pool; one of them may have all that the row sees."""
    cost = AttentionCost("f16", 64, flat(7.0), flat(5.0), None, 0.25)
    layers = AttentionLayers(1, 4, 2, 64.0, None)
    found = Attention(layers, cost, threads).seconds(batch_of([Part(1, 1, 100)], 900))
    assert found == pytest.approx(4 * (7.0 * seen + 0.25 * skipped))
