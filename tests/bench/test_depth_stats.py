from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.bench.depth_stats import bits, buckets, mean_with_interval, of_positions, t95


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 6.3138), (2, 2.9200), (3, 2.3534), (5, 2.0150), (10, 1.8125), (23, 1.7139)],
)
def test_the_quantile_is_that_of_the_tables(degrees: int, quantile: float) -> None:
    assert t95(degrees) == pytest.approx(quantile, rel=0.005)


def test_nine_in_ten_intervals_hold_the_mean_of_correlated_losses() -> None:
    source = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        noise = source.exponential(size=2000)
        losses = np.convolve(noise, [0.5, 0.3, 0.2], mode="valid")  # neighbours are correlated
        figure = mean_with_interval(losses)
        held += figure.low <= 1.0 <= figure.high
    assert 340 <= held <= 380


def test_a_single_loss_has_no_interval() -> None:
    figure = bits(np.array([math.log(2.0)]))
    assert (figure.value, figure.low, figure.high) == (pytest.approx(1.0), -math.inf, math.inf)


def test_a_negative_scale_keeps_the_ends_in_order() -> None:
    figure = mean_with_interval(np.arange(50.0), -1.0)
    assert figure.low < figure.value < figure.high < 0


@given(st.integers(1, 10**6))
def test_buckets_cover_every_position_once_and_grow(longest: int) -> None:
    found = buckets(longest)
    assert found[0][0] == 0
    assert found[-1][1] == longest
    assert all(a[1] == b[0] for a, b in pairwise(found))
    assert all(last > first for first, last in found)
    assert all(2 * (b - a) >= (d - c) for (c, d), (a, b) in pairwise(found[1:]))


def test_positions_of_all_passes_are_joined_without_those_not_judged() -> None:
    passes = [np.array([np.nan, 1.0, 2.0]), np.array([np.nan, 3.0])]
    assert of_positions(passes, 0, 2).tolist() == [1.0, 3.0]
    assert of_positions(passes, 2, 9).tolist() == [2.0]
