"""Floors against a plain sort of the whole vocabulary."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from okno.core.request import Sampling
from okno.engines.race import ALL, block_maxima
from okno.engines.truncation import floor_of, highest, truncates

N_VOCAB = 20_000


def kept(logits, s):
    floor = floor_of(logits, block_maxima(logits), s)
    return np.flatnonzero(floor.leaves(logits)).tolist()


def plainly_kept(logits, s):
    """(ids, distance of the nearest decision from a tie): everything sorted, in float64."""
    x = logits.astype(np.float64)
    order = np.argsort(-x, kind="stable")
    near = 1.0
    if 0 < s.top_k < len(x):
        order = order[: s.top_k]
    if s.top_p < 1:
        running = np.cumsum(np.exp(x[order] - x.max()))
        running /= running[-1]
        near = float(np.abs(running - s.top_p).min())
        order = order[: int(np.searchsorted(running, s.top_p)) + 1]
    if s.min_p > 0:
        order = order[x[order] >= x.max() + math.log(s.min_p)]
    return sorted(order.tolist()), near


def row(seed, scale, peak, rounded):
    x = np.random.default_rng(seed).normal(size=N_VOCAB) * scale
    x[::997] += peak
    return (np.round(x * 8) / 8 if rounded else x).astype(np.float32)


rows = st.builds(
    row,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 1.0, 3.0, 10.0]),
    st.sampled_from([0.0, 6.0, 30.0]),
    st.booleans(),
)
samplings = st.builds(
    Sampling,
    top_k=st.sampled_from([0, 0, 1, 7, 40, 77, 500, 19_999, N_VOCAB, 10**6]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01, 1e-12]),
    min_p=st.sampled_from([0.0, 0.0, 0.001, 0.1, 1.0]),
)


@settings(max_examples=300, deadline=None)
@given(rows, samplings)
def test_the_floor_leaves_what_sorting_everything_leaves(logits, s):
    assume(truncates(s, N_VOCAB))
    expected, near = plainly_kept(logits, s)
    assume(near > 1e-5)
    assert kept(logits, s) == expected


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(1, N_VOCAB))
def test_the_highest_are_complete_down_to_their_last(logits, count):
    values = highest(logits, block_maxima(logits), count)
    assert len(values) >= count
    assert values.tolist() == sorted(logits.tolist(), reverse=True)[: len(values)]
    assert len(values) == np.count_nonzero(logits >= values[-1])


@pytest.mark.parametrize("s", [Sampling(top_k=3), Sampling(top_p=3 / 8)])
def test_of_equal_tokens_the_lowest_ids_are_left(s):
    assert kept(np.full(8, 2.5, dtype=np.float32), s) == [0, 1, 2]


def test_a_peak_beside_impossible_tokens_is_left_alone():
    logits = np.full(N_VOCAB, -np.inf, dtype=np.float32)
    logits[[5, 700]] = [3.0, 1.0]
    for s in (Sampling(top_k=40), Sampling(top_p=0.99), Sampling(min_p=0.1)):
        assert {5} <= {i for i in kept(logits, s) if logits[i] > -np.inf} <= {5, 700}
    assert kept(logits, Sampling(top_p=0.5)) == [5]


def test_nothing_is_cut_off_unless_asked():
    assert not truncates(Sampling(), N_VOCAB)
    assert not truncates(Sampling(top_k=N_VOCAB), N_VOCAB)
    assert truncates(Sampling(min_p=0.01), N_VOCAB)
    logits = row(1, 1.0, 0.0, False)
    assert floor_of(logits, block_maxima(logits), Sampling(min_p=1e-30)).last == ALL.last
