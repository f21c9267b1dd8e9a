"""Costs against rows between the measured ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.calibration import Curve
from okno.plan.speed_rows import LEAST_SLIM, slimness, table

MEASURED = (*range(1, 25), 32, 33, 48, 64, 128, 256)


def curve(at: tuple[int, ...], seconds: list[float]) -> Curve:
    return Curve(at, tuple(seconds), (0.0,) * len(at))


def in_groups(rows: int) -> float:
    """A repacked product: groups of four, the remaining rows one by one."""
    return rows // 4 * 2.0 + rows % 4 * 1.5


def in_blocks(rows: int) -> float:
    """An AMX product: a block that is begun costs nearly as much as a full one."""
    full, begun = divmod(rows, 32)
    return full * 10.0 + (begun and (8.0 + begun / 16 if full else 1.0 + 9 * begun / 32))


def test_measured_rows_keep_their_seconds() -> None:
    for kernel in (in_groups, in_blocks):
        seconds = table(curve(MEASURED, [kernel(n) for n in MEASURED]), 600)
        assert [seconds[n] for n in MEASURED] == pytest.approx([kernel(n) for n in MEASURED])
        assert seconds[0] == 0
        assert seconds[512] == pytest.approx(2 * kernel(256))


def test_rows_between_follow_the_groups_of_four() -> None:
    seconds = table(curve(MEASURED, [in_groups(n) for n in MEASURED]), 256)
    for rows in range(1, 257):
        assert seconds[rows] == pytest.approx(in_groups(rows), abs=0.8), rows
    assert seconds[27] > seconds[28]
    assert seconds[103] > seconds[104]


def test_rows_between_follow_the_blocks_of_32() -> None:
    seconds = table(curve(MEASURED, [in_blocks(n) for n in MEASURED]), 256)
    for rows in range(1, 257):
        assert seconds[rows] == pytest.approx(in_blocks(rows), rel=0.05), rows
    assert seconds[97] > 1.2 * seconds[96]


def test_a_curve_that_was_not_measured_there_is_joined() -> None:
    at = (1, 4, 16, 64, 256)
    seconds = table(curve(at, [2.0 + n for n in at]), 256)
    assert seconds[1:] == pytest.approx(2.0 + np.arange(1, 257))


def test_a_slim_matrix_may_cost_less() -> None:
    wide, slim = curve((1, 16, 64), [1.0, 4.0, 16.0]), curve((1, 64), [2.0, 12.0])
    assert slimness(wide, slim, 64)[[0, 1, 64]] == pytest.approx([0.0, 1.0, -4.0])


@pytest.mark.parametrize("disturbed", [32, 33, 48, 64, 128, 256])
def test_a_disturbed_measurement_makes_no_other_rows_cheap(disturbed: int) -> None:
    """One that took eight times as long, among rows that all cost the same."""
    seconds = table(curve(MEASURED, [n * (8.0 if n == disturbed else 1.0) for n in MEASURED]), 256)
    assert (seconds >= np.arange(257) - 1e-9).all()


@pytest.mark.parametrize("disturbed", [33, 48])
def test_a_begun_block_costs_no_more_than_a_full_one(disturbed: int) -> None:
    seconds = table(curve(MEASURED, [n * (8.0 if n == disturbed else 1.0) for n in MEASURED]), 256)
    rows = np.arange(65, 257)
    assert (seconds[65:] <= -(-rows // 32) * 32).all()


def test_a_disturbed_wide_matrix_makes_no_slim_one_free() -> None:
    """Beyond the rows that both were measured at, too."""
    wide = curve(MEASURED, [n * (4.0 if n == 64 else 1.0) for n in MEASURED])
    slim = curve((1, 16, 64), [1.0, 16.0, 64.0])
    seconds = table(wide, 512) + slimness(wide, slim, 512)
    assert (seconds >= LEAST_SLIM * np.arange(513)).all()


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=6, unique=True))
def test_a_table_has_no_hole(rows: list[int]) -> None:
    at = tuple(sorted(rows))
    seconds = table(Curve(at, tuple(n * 1e-9 for n in at), (0.0,) * len(at)), 1024)
    assert (seconds[1:] > 0).all()


@given(
    st.lists(st.floats(1e-15, 1e-6), min_size=len(MEASURED), max_size=len(MEASURED)),
    st.lists(st.floats(1e-15, 1e-6), min_size=13, max_size=13),
)
def test_no_row_is_free_whatever_was_measured(wide_s: list[float], slim_s: list[float]) -> None:
    wide = curve(MEASURED, wide_s)
    slim = curve((1, 2, 3, 4, 6, 8, 12, 16, 20, 32, 33, 48, 64), slim_s)
    seconds = table(wide, 1024)
    assert (seconds[1:] > 0).all()
    assert (seconds[1:] + slimness(wide, slim, 1024)[1:] > 0).all()
