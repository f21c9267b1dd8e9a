from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.schedule import lookup
from okno.schedule.lookup import MOST_MATCHED, PIECE_TOKENS, Lookup


def followed(tokens: list[int], room: int = 0) -> Lookup:
    found = Lookup(max(room, len(tokens)))
    while not found.follow(np.array(tokens, dtype=np.int32)):
        pass
    return found


def matched(tokens: list[int], at: int) -> int:
    """How many tokens up to `at` equal those up to the end: the definition."""
    length = 0
    while length < min(MOST_MATCHED, at + 1) and tokens[at - length] == tokens[-1 - length]:
        length += 1
    return length


def test_what_followed_the_same_words_before_is_guessed() -> None:
    guess = followed([1, 2, 3, 4, 5, 6, 9, 9, 2, 3]).guess(3)
    assert guess is not None
    assert (guess.tokens, guess.level) == ((4, 5, 6), 2)


def test_nothing_is_guessed_where_nothing_repeats() -> None:
    assert followed(list(range(50))).guess(8) is None
    assert followed([7]).guess(8) is None
    assert followed([]).guess(8) is None


def test_a_token_that_stood_once_is_a_match_of_one() -> None:
    """The first word of a copy."""
    guess = followed([1, 2, 3, 4, 9, 2]).guess(2)
    assert guess is not None
    assert (guess.tokens, guess.level) == ((3, 4), 1)


def test_a_single_common_token_is_no_match() -> None:
    assert followed([1, 2, 3, 2, 4, 9, 2]).guess(4) is None


def test_a_single_token_of_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MOST_INDEXED", 64)
    assert followed([5, 6, 7, *[1, 2] * 20, 5], room=10**9).guess(1) is not None
    assert followed([5, 6, 7, *[1, 2] * 40, 5], room=10**9).guess(1) is None


def test_learning_nothing_new_forgets_nothing() -> None:
    text = np.array([1, 2, 3, 4, 9, 2], dtype=np.int32)
    found = followed(text.tolist())
    assert found.follow(text)
    guess = found.guess(2)
    assert guess is not None
    assert guess.tokens == (3, 4)


def test_of_two_tokens_in_one_entry_neither_is_found() -> None:
    slots = lookup._LEAST_SLOTS
    assert followed([1, 2, 3, 2 + slots, 5, 2]).guess(1) is None
    assert followed([1, 2, 3, 2 + slots]).guess(1) is None


def test_nothing_is_guessed_after_the_end_of_a_text() -> None:
    """The message that is copied ends there, and so will the answer."""
    END = 99
    text = [1, 2, 3, 4, END, 7, 8, 9, 2, 3]
    found = Lookup(len(text), ends={END})
    found.follow(np.array(text, dtype=np.int32))
    guess = found.guess(8)
    assert guess is not None
    assert guess.tokens == (4, END)


def test_the_longer_match_wins_over_the_later_one() -> None:
    text = [1, 2, 3, 40, 41, 8, 2, 3, 50, 51, 9, 1, 2, 3]
    guess = followed(text).guess(2)
    assert guess is not None
    assert (guess.tokens, guess.level) == ((40, 41), 3)


def test_of_equal_matches_the_later_wins() -> None:
    guess = followed([5, 2, 3, 40, 6, 2, 3, 50, 7, 2, 3]).guess(1)
    assert guess is not None
    assert guess.tokens == (50,)


def test_a_copy_under_way_goes_on_though_its_place_is_beyond_the_candidates() -> None:
    """A pair of tokens that comes very often: the walk back ends before the place of the copy."""
    source = [900, 901, 1, 2, 902, 903]
    between = [token for k in range(3 * lookup.CANDIDATES) for token in (1, 2, 100 + k)]
    start = [*source, *between, 900, 901]
    found = followed(start, room=1000)
    first = found.guess(4)
    assert first is not None
    assert first.tokens == (1, 2, 902, 903)
    found.follow(np.array([*start, 1, 2], dtype=np.int32))
    second = found.guess(2)
    assert second is not None
    assert (second.tokens, second.level) == ((902, 903), 4)


def test_a_copy_goes_on_behind_a_token_that_was_replaced() -> None:
    source = [1, 2, 3, 4, 5, 6, 7, 8]
    found = followed([*source, 90, 2, 3], room=99)
    assert found.guess(2) is not None  # 4, 5
    found.follow(np.array([*source, 90, 2, 3, 77], dtype=np.int32))
    replaced = found.guess(3)
    assert replaced is not None
    assert (replaced.tokens, replaced.level) == ((5, 6, 7), 0)
    found.follow(np.array([*source, 90, 2, 3, 77, 5], dtype=np.int32))
    after = found.guess(2)
    assert after is not None
    assert (after.tokens, after.level) == ((6, 7), 0)
    found.follow(np.array([*source, 90, 2, 3, 77, 5, 78, 79], dtype=np.int32))
    assert found.guess(2) is None


def test_a_repetition_goes_on_beyond_its_end() -> None:
    guess = followed([8, 1, 2, 3, 1, 2, 3]).guess(7)
    assert guess is not None
    assert guess.tokens == (1, 2, 3, 1, 2, 3, 1)
    again = followed([4, 4, 4]).guess(3)
    assert again is not None
    assert again.tokens == (4, 4, 4)


def test_a_long_prompt_is_indexed_in_bounded_pieces() -> None:
    tokens = np.arange(3 * PIECE_TOKENS, dtype=np.int32)
    found = Lookup(len(tokens))
    assert [found.follow(tokens) for _ in range(3)] == [False, False, True]
    assert len(found) == len(tokens)
    assert found.follow(tokens)


def test_memory_is_bounded_and_what_is_forgotten_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "MOST_INDEXED", 64)
    tokens = [1000, 1001, 1002, *range(200), 1000, 1001]
    assert followed(tokens, room=10**9).guess(1) is None
    near = followed([*range(200), 1000, 1001, 1002, *range(300, 340), 1000, 1001], room=10**9)
    guess = near.guess(1)
    assert guess is not None
    assert guess.tokens == (1002,)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=120), st.integers(1, 9), st.integers(0, 10**6))
def test_a_guess_is_what_followed_a_longest_match(tokens: list[int], most: int, seed: int) -> None:
    """In pieces of any size: the guess of a fresh index, which looks at all candidates, is of the
    longest match there is, if that is among the candidates of the last pair."""
    rng = random.Random(seed)
    found, at = Lookup(len(tokens)), 0
    while at < len(tokens):
        at = min(len(tokens), at + rng.randint(1, 9))
        found.follow(np.array(tokens[:at], dtype=np.int32))
        if rng.random() < 0.3:
            found.guess(3)
    guess = found.guess(most)
    pairs = [i for i, pair in enumerate(pairwise(tokens), 1) if list(pair) == tokens[-2:]]
    places = pairs[:-1]
    if not places:
        fresh = followed(tokens).guess(most)
        once = [i for i, token in enumerate(tokens[:-1]) if token == tokens[-1]]
        assert (fresh is not None) == (len(once) == 1)
        assert fresh is None or fresh.tokens == continued(tokens, once[0], most)
        copied_on = [continued(tokens, place, most) for place in range(len(tokens) - 1)]
        assert guess == fresh or (guess is not None and guess.level == 0)
        assert guess is None or guess.tokens in copied_on
        return
    assert guess is not None
    best = max(matched(tokens, place) for place in places[-3:])
    assert guess.level >= best
    sources = [place for place in places if matched(tokens, place) == guess.level]
    grown = [continued(tokens, place, most) for place in sources]
    assert guess.tokens in grown


def continued(tokens: list[int], place: int, most: int) -> tuple[int, ...]:
    text = list(tokens)
    for offset in range(most):
        text.append(text[place + 1 + offset])
    return tuple(text[len(tokens) :])
