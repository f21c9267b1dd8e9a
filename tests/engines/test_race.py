"""The race against one that is run: every token's arrival computed, the first one taken."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.engines.race import (
    ALL,
    Floor,
    Race,
    _exponentials,
    _least_exponentials,
    block_maxima,
    key_of,
    n_blocks_of,
    stream_of,
    winners,
)


def exponentials(key, n_vocab):
    """E of every token."""
    n_blocks = n_blocks_of(n_vocab)
    ids = np.arange(n_vocab)
    keys = np.full(n_vocab, key, dtype=np.uint64)
    least, holders = _least_exponentials(keys, ids % n_blocks)
    return np.where(holders == ids // n_blocks, 0, _exponentials(keys, ids)) + least


def run(race):
    """The winner, without shortcuts."""
    x = race.logits.astype(np.float64)
    with np.errstate(over="ignore"):
        slowness = np.exp((x.max() - x) / max(race.temperature, 1e-30))
        arrivals = exponentials(race.key, len(x)) * slowness
    arrivals[~race.floor.leaves(race.logits)] = np.inf
    return int(arrivals.argmin())


def race(logits, key=1, temperature=1.0, floor=ALL):
    return Race(logits, block_maxima(logits), key, temperature, floor)


keys = st.integers(0, 2**64 - 1)
sizes = st.sampled_from([1, 2, 31, 32, 33, 200, 1000, 4096, 4097, 20_000])
temperatures = st.sampled_from([1e-300, 0.05, 0.7, 1.0, 1.7, 10.0])


@st.composite
def rows(draw):
    """Flat, bell-shaped and peaked logits, some impossible, with ties."""
    n_vocab = draw(sizes)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = random.normal(size=n_vocab) * draw(st.sampled_from([0.0, 0.3, 3.0, 12.0]))
    if draw(st.booleans()):
        x = np.round(x)
    x[random.integers(0, n_vocab, draw(st.integers(0, 3)))] += draw(st.sampled_from([0.0, 20.0]))
    x[random.random(n_vocab) < draw(st.sampled_from([0.0, 0.5, 0.999]))] = -np.inf
    x[draw(st.integers(0, n_vocab - 1))] = 1.0
    return x.astype(np.float32)


@settings(max_examples=500, deadline=None)
@given(rows(), keys, temperatures)
def test_the_winner_is_the_one_of_the_race_that_is_run(logits, key, temperature):
    asked = race(logits, key, temperature)
    assert winners([asked]) == [run(asked)]
    assert winners([asked, asked]) == [run(asked)] * 2


@settings(max_examples=300, deadline=None)
@given(rows(), keys, temperatures, st.data())
def test_nobody_below_the_floor_wins(logits, key, temperature, data):
    finite = np.flatnonzero(logits > -np.inf)
    at = data.draw(st.sampled_from(finite[:50].tolist()))
    floor = Floor(float(logits[at]), at)
    asked = race(logits, key, temperature, floor)
    assert winners([asked]) == [run(asked)]
    assert winners([asked] * 9) == [run(asked)] * 9


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_races_beside_each_other_are_as_alone(seed, count):
    random = np.random.default_rng(seed)
    races = [
        race(
            (random.normal(size=9000) * random.choice([0.0, 1.0, 4.0])).astype(np.float32),
            int(random.integers(0, 2**63)),
            float(random.choice([0.3, 1.0, 2.0])),
            Floor(0.5, 2500) if random.random() < 0.2 else ALL,
        )
        for _ in range(count)
    ]
    alone = [winners([one])[0] for one in races]
    assert winners(races) == alone


def test_the_numbers_are_exponentials_of_rate_one():
    numbers = np.concatenate([exponentials(key_of(5, i), 1000) for i in range(200)])
    spread = np.histogram(-np.expm1(-numbers), bins=50, range=(0, 1))[0]
    expected = len(numbers) / 50
    assert ((spread - expected) ** 2 / expected).sum() < 49 + 4 * math.sqrt(98)


def test_the_numbers_of_a_block_do_not_know_of_each_other():
    tables = np.array([exponentials(key_of(9, i), 128) for i in range(20_000)])
    correlations = np.corrcoef(np.exp(-tables).T)
    off = correlations[~np.eye(128, dtype=bool)]
    assert np.abs(off).max() < 6 / math.sqrt(len(tables))
    assert np.bincount(tables.argmin(axis=1), minlength=128).min() > 0


def test_one_token_is_as_likely_as_its_weight_says():
    logits = np.full(3000, -4.0, dtype=np.float32)
    logits[1234] = math.log(3000) - 4.0
    hits = sum(winners([race(logits, key_of(3, i))])[0] == 1234 for i in range(2000))
    share = 3000 / (3000 + 2999)
    assert abs(hits - 2000 * share) < 4 * math.sqrt(2000 * share * (1 - share))


@pytest.mark.parametrize("n_vocab", [1, 31, 32, 33, 1000, 4097])
def test_a_block_knows_its_highest_logit(n_vocab):
    logits = np.random.default_rng(n_vocab).normal(size=n_vocab).astype(np.float32)
    n_blocks = n_blocks_of(n_vocab)
    expected = [logits[b::n_blocks].max() for b in range(n_blocks)]
    assert block_maxima(logits).tolist() == expected
    logits[n_vocab // 2] = np.nan
    assert np.isnan(block_maxima(logits).max())


def test_streams_of_near_seeds_have_nothing_in_common():
    keys = [key_of(stream_of(seed), i) for seed in (-1, 0, 1, 2**64 - 1) for i in range(100)]
    assert len(set(keys)) == 400
    assert all(0 <= key < 2**64 for key in keys)
