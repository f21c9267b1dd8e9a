"""How long answers are expected to become."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.schedule.lengths import PRIOR_TOKENS, REMEMBERED, AnswerLengths

WINDOW = 100_000


def after(*lengths: int, cut: bool = False) -> AnswerLengths:
    found = AnswerLengths()
    for tokens in lengths:
        found.learn(tokens, cut=cut)
    return found


def test_the_first_guess_is_the_prior_or_the_limit_if_that_is_shorter() -> None:
    assert AnswerLengths().remaining(0, WINDOW) == PRIOR_TOKENS
    assert AnswerLengths().remaining(0, 40) == 40
    assert AnswerLengths().remaining(56, WINDOW) == PRIOR_TOKENS - 56


def test_answers_of_one_length_make_expect_that_length() -> None:
    found = after(*[100] * REMEMBERED)
    assert found.remaining(0, WINDOW) == pytest.approx(100, rel=0.03)
    assert found.remaining(60, WINDOW) == pytest.approx(40, rel=0.1)


def test_who_got_further_is_compared_with_those_that_got_as_far() -> None:
    found = after(*[10, 300] * (REMEMBERED // 2))
    assert found.remaining(0, WINDOW) == pytest.approx(155, rel=0.05)
    assert found.remaining(50, WINDOW) == pytest.approx(250, rel=0.05)


def test_answers_cut_by_short_limits_do_not_shorten_those_with_long_ones() -> None:
    found = after(*[16] * 30, cut=True)
    for _ in range(30):
        found.learn(300, cut=False)
    assert found.remaining(0, WINDOW) == pytest.approx(300, rel=0.05)
    assert found.remaining(0, 16) == pytest.approx(16, rel=0.01)


def test_longer_than_any_answer_so_far_means_as_much_again() -> None:
    found = after(*[10] * 5)
    assert found.remaining(500, WINDOW) == 500
    assert found.remaining(500, 600) == 100


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=80),
       st.integers(0, 500), st.integers(1, 500))  # fmt: skip
def test_what_remains_is_never_more_than_the_limit_leaves(seen, generated, limit) -> None:
    found = AnswerLengths()
    for tokens, cut in seen:
        found.learn(tokens, cut=cut)
    assert 0 <= found.remaining(generated, limit) <= max(0, limit - generated) + 1e-9


def test_the_expectation_is_the_mean_of_what_comes() -> None:
    """Lengths without memory (geometric), half of the requests with a limit of 50."""
    rng = random.Random(3)
    lengths = [1 + int(rng.expovariate(1 / 120)) for _ in range(4000)]
    expected = AnswerLengths()
    errors = []
    for k, length in enumerate(lengths):
        limit = 50 if k % 2 else WINDOW
        if k >= REMEMBERED:
            errors.append((expected.remaining(0, limit), min(length, limit)))
        expected.learn(min(length, limit), cut=length >= limit)
    told, came = (sum(values) / len(errors) for values in zip(*errors, strict=True))
    assert told == pytest.approx(came, rel=0.15)
