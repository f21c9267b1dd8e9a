from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.schedule.cost import Ahead, LearntRows
from okno.schedule.pacer import (
    ALONE_S,
    LONGEST_S,
    MIXED_S,
    TILE_ROWS,
    Pacer,
    Rest,
    Target,
    piece_rows,
)


def line(row_s: float, decodes: int = 0) -> Callable[[int], float]:
    return lambda rows: row_s * (rows + decodes)


def test_a_piece_alone_takes_the_time_it_may_in_whole_tiles() -> None:
    rows = piece_rows(line(1e-3), 10_000)
    assert rows % TILE_ROWS == 0
    assert ALONE_S * 1000 - TILE_ROWS < rows <= ALONE_S * 1000


def test_of_several_prompts_a_piece_is_the_shortest_that_is_nearly_as_fast() -> None:
    assert piece_rows(line(1e-3), 10_000, prompts=3) == TILE_ROWS
    fixed = piece_rows(lambda n: 0.05 + 1e-3 * n, 10_000, prompts=3)  # a step costs something
    assert TILE_ROWS < fixed <= piece_rows(lambda n: 0.05 + 1e-3 * n, 10_000)
    assert piece_rows(line(10.0), 40, prompts=3) == piece_rows(line(10.0), 40)


def test_beside_others_a_piece_keeps_the_gap_and_fills_the_tile_with_them() -> None:
    rows = piece_rows(lambda n: 0.05 + 1e-3 * n, 10_000, decodes=5)
    assert (rows + 5) % TILE_ROWS == 0
    assert 0.05 + 1e-3 * rows <= MIXED_S


def test_an_asked_gap_is_kept_however_slow_the_prompt_becomes() -> None:
    def tiled(row_s: float) -> Callable[[int], float]:  # below a tile a row costs more
        return lambda rows: 0.9 if rows + 2 >= TILE_ROWS else row_s * (rows + 2)

    assert piece_rows(tiled(0.024), 256, decodes=2, target=Target(0.25)) == 6
    assert piece_rows(tiled(0.024), 62, decodes=2) == 10  # twice as fast is not worth the wait
    assert piece_rows(tiled(0.035), 62, decodes=2, target=Target(0.25)) == 6
    assert piece_rows(tiled(0.035), 62, decodes=2) == 62  # the default waits where it pays thrice


def test_a_prompt_alone_takes_a_longer_step_where_that_is_faster() -> None:
    def tiled(tile_s: float) -> Callable[[int], float]:
        return lambda rows: tile_s + 0.001 * (rows - 64) if rows >= TILE_ROWS else 0.01 * rows

    assert piece_rows(tiled(0.55), 256) == 64  # and no second one
    assert piece_rows(tiled(0.62), 256) == 48


def test_no_limit_takes_the_count_that_computes_prompts_fastest() -> None:
    assert piece_rows(lambda rows: 1.0 + 1e-4 * rows, 508, 4, Target(0)) == 508


def test_a_count_that_costs_more_than_a_larger_one_is_never_taken() -> None:
    """The Q4_K_M curve of facts/engine.md: 8 rows take longer than 16."""
    taken = {8: 0.265, 16: 0.250, 24: 0.50, 32: 0.44, 48: 0.53, 64: 0.83}

    def knee(rows: int) -> float:
        return taken.get(rows, 0.25 + 0.01 * rows)

    assert piece_rows(knee, 16) == 16
    assert piece_rows(knee, 40) == 32


def test_a_slow_decode_step_widens_the_default_gap() -> None:
    slow = piece_rows(lambda rows: 0.5 + 0.01 * rows, 64, decodes=2)
    assert 0.5 + 0.01 * slow > MIXED_S


def test_where_even_the_fewest_rows_take_too_long_they_still_run() -> None:
    assert piece_rows(line(10.0), 256) == 8
    assert piece_rows(line(10.0), 5) == 5


@given(
    st.integers(1, 600), st.integers(0, 64), st.floats(1e-6, 1.0), st.floats(0, 1),
    st.sampled_from([None, 0.0, 0.05, 1.0]),
)  # fmt: skip
def test_pieces_never_exceed_the_step_nor_vanish(
    most: int, decodes: int, row_s: float, fixed_s: float, itl_s: float | None
) -> None:
    rows = piece_rows(lambda n: fixed_s + row_s * (n + decodes), most, decodes, Target(itl_s))
    assert 1 <= rows <= most


@pytest.mark.parametrize("decodes", [0, 3])
def test_learnt_rows_follow_a_machine_that_gets_slower(decodes: int) -> None:
    cost = LearntRows()
    pacer = Pacer(4096, cost)
    ahead = Ahead(decodes=decodes, prompt_tokens=5000)
    cost.observe(100, 0.1)
    before = pacer.prompt_rows(ahead)
    for _ in range(20):
        cost.observe(100, 1.5)
    assert pacer.prompt_rows(ahead) < before / 3
    assert cost.seconds(ahead, pacer.prompt_rows(ahead)) <= LONGEST_S


def test_steps_of_a_few_rows_teach_nothing_about_prompts() -> None:
    cost = LearntRows()
    before = cost.seconds(Ahead(), 64)
    cost.observe(2, 5.0)
    assert cost.seconds(Ahead(), 64) == before


def deep_is_dear(depth: int) -> Callable[[int], float]:
    """Whole tiles cost the same everywhere, fewer rows more the deeper they are."""
    return lambda rows: 0.4 if rows % TILE_ROWS == 0 else 0.006 * rows * (1 + depth / 500)


def test_what_remains_after_whole_tiles_is_computed_first() -> None:
    prompt, depth, pieces = 1000, 0, []
    while depth < prompt:
        rest = Rest(prompt - depth, lambda rows: deep_is_dear(prompt - rows)(rows))
        pieces.append(piece_rows(deep_is_dear(depth), 64, rest=rest))
        depth += pieces[-1]
    assert pieces == [1000 % TILE_ROWS, *[TILE_ROWS] * (1000 // TILE_ROWS)]


def test_no_more_rows_are_paced_than_there_are() -> None:
    rest = Rest(20, line(1e-3))
    assert piece_rows(line(1e-3), 256, rest=rest) == 20


def test_where_rows_cost_the_same_in_any_number_what_is_left_of_a_prompt_decides_nothing() -> None:
    """Without tiles: 5 rows beside 3 decoding ones compute 36 rows/s and 13 compute 65. The 56 rows
    that 5 would leave after whole tiles hid that."""

    def seconds(rows: int) -> float:
        return 0.093 + 0.0083 * max(0, rows - 1)

    for tokens in range(200, 1900, 7):
        rest = Rest(tokens, lambda rows: seconds(rows) + 0.05)
        assert piece_rows(seconds, 253, 3, rest=rest) >= 13
