from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.schedule.cost import Ahead
from okno.schedule.drafting import (
    ALLOWANCE,
    CREDIT_STEPS,
    FIRST_WAIT,
    LEVELS,
    LONGEST_WAIT,
    MARGIN,
    NOTHING,
    Acceptance,
    Account,
    Choice,
    Offer,
    Patience,
    Plain,
    best_case,
    choose,
)
from okno.schedule.lookup import Guess

HALF = (0.5,) * LEVELS


@dataclass
class Table:
    """seconds by rows: those given, the last one from there on."""

    costs: list[float]

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        rows = ahead.decodes + prompt_rows + guesses
        return self.costs[min(rows, len(self.costs)) - 1]


def linear(fixed: float, per_row: float) -> Table:
    return Table([fixed + per_row * rows for rows in range(1, 400)])


def plain(rows: int = 1, free: int = 16) -> Plain:
    return Plain(Ahead(decodes=rows), 0, free)


# Acceptance ---------------------------------------------------------------------------------------


def test_a_guess_teaches_only_what_it_shows() -> None:
    shared = Acceptance(HALF)
    shared.compare(Guess((1, 2, 3, 4), 2), (1, 2, 9, 4))
    assert shared.chance(2) == shared.chance(3) == pytest.approx(3 / 5)
    assert shared.chance(4) == pytest.approx(2 / 5)
    assert shared.chance(5) == 0.5, "what came after the first wrong one is unknown"


def test_tokens_that_did_not_come_teach_nothing() -> None:
    shared = Acceptance(HALF)
    assert shared.compare(Guess((1, 2, 3), 2), (1,)) == 1
    assert shared.compare(Guess((1,), 2), (1, 5, 6)) == 1
    assert shared.chance(3) == 0.5


def test_a_sequence_starts_from_what_all_have_shown_and_goes_its_own_way() -> None:
    shared = Acceptance(HALF)
    copying, other = Acceptance(shared), Acceptance(shared)
    for _ in range(200):
        copying.compare(Guess((1,), 5), (1,))
    assert Acceptance(shared).chance(5) > 0.9
    for _ in range(30):
        other.compare(Guess((1,), 5), (2,))
    assert other.chance(5) < 0.3 < 0.8 < copying.chance(5)


def test_levels_beyond_the_last_share_it() -> None:
    shared = Acceptance(HALF)
    shared.compare(Guess((1,) * 5, LEVELS + 3), (1,) * 5)
    assert shared.chance(LEVELS - 1) > 0.5
    assert len(shared.chances(LEVELS - 2, 3)) == 3


def test_a_guess_is_offered_as_far_as_it_has_a_chance() -> None:
    assert Acceptance(HALF).chances(0, 16) == (0.5,) * 4


def test_old_guesses_are_forgotten() -> None:
    own = Acceptance(Acceptance(HALF))
    for _ in range(100):
        own.compare(Guess((1,), 3), (1,))
    for _ in range(25):
        own.compare(Guess((1,), 3), (2,))
    assert own.chance(3) < 0.35


# The choice ---------------------------------------------------------------------------------------


def test_free_rows_are_filled_with_guesses() -> None:
    flat = Table([1.0])
    choice = choose([Offer("a", (0.9,) * 5), Offer("b", (0.5, 0.5))], plain(2), flat)
    assert choice.lengths == {"a": 5, "b": 2}
    assert choice.faster > 2


def test_rows_that_cost_their_share_are_not_worth_a_guess() -> None:
    assert choose([Offer("a", (0.9,) * 8)], plain(), linear(0.0, 1.0)) is NOTHING
    assert choose([], plain(), Table([1.0])) is NOTHING
    assert choose([Offer("a", (1.0,))], plain(free=0), Table([1.0])) is NOTHING


def test_spare_rows_take_any_guess_that_has_a_chance() -> None:
    """They would be filled with nothing: a chance of 0.3 beside two rows is worth it there only."""
    offers = [Offer("a", (0.3, 0.1, 0.05)), Offer("b", (0.02,))]
    cost = linear(0.5, 0.5)
    with_two = Plain(Ahead(decodes=2), 0, 16, spare_rows=2)
    assert choose(offers, plain(2), cost) is NOTHING
    assert choose(offers, with_two, cost).lengths == {"a": 2}


def test_what_passes_beside_the_engine_is_saved_by_guesses_too() -> None:
    """A step of 1 ms in which the server works for 4 ms beside: rows that cost half a step pay."""
    offer, cost = Offer("a", (0.6,)), linear(0.0005, 0.0005)
    assert choose([offer], plain(), cost) is NOTHING
    beside = Plain(Ahead(decodes=1), 0, 16, beside_s=0.004)
    assert choose([offer], beside, cost).lengths == {"a": 1}


def test_who_guesses_nothing_gets_its_tokens_nearly_as_soon() -> None:
    """Each guess stretches the step of 0.06 s by 0.01; 0.1 s is what a token may take."""
    offer, cost = Offer("a", (1.0,) * 12), linear(0.05, 0.01)
    alone = plain(1), Plain(Ahead(decodes=1), 0, 16, target_s=0.1)
    assert [choose([offer], one, cost).lengths for one in alone] == [{"a": 12}] * 2
    beside = Plain(Ahead(decodes=2), 0, 16, target_s=0.1)
    assert choose([offer], plain(2), cost).lengths == {"a": 12}
    assert choose([offer], beside, cost).lengths == {"a": 3}
    both = [Offer("a", (0.9,) * 3), Offer("b", (0.8,) * 3)]
    assert choose(both, beside, cost).lengths == {"a": 3, "b": 3}, "2.9 tokens in 0.13 s"


def test_without_a_target_others_wait_half_as_long_again_at_most() -> None:
    offer, cost = Offer("a", (1.0,) * 12), linear(0.05, 0.01)
    beside = Plain(Ahead(decodes=2), 0, 16, target_s=None)
    assert choose([offer], beside, cost).lengths == {"a": 3}, "0.07 s without, 0.105 at most"


def test_numbers_of_guesses_beyond_those_that_take_too_long_are_tried() -> None:
    dent = Table([0.06, 0.06, 0.2, 0.2, 0.07])
    beside = Plain(Ahead(decodes=2), 0, 16, target_s=0.1)
    assert choose([Offer("a", (1.0,) * 12)], beside, dent).lengths == {"a": 12}


def test_a_gap_that_is_missed_without_guesses_too_is_no_reason_against_them() -> None:
    """13 B on two cores: a step of 0.4 s; sixteen tokens in one of 2 s are what was asked for."""
    missed = Plain(Ahead(decodes=1), 0, 16, target_s=0.3)
    assert choose([Offer("a", (0.97,) * 15)], missed, linear(0.3, 0.1)).lengths["a"] > 4


def test_a_guess_ends_where_its_next_row_does_not_pay() -> None:
    choice = choose([Offer("a", (0.8,) * 16)], plain(), linear(0.7, 0.3))
    assert 0 < choice.lengths["a"] < 5


def test_the_likelier_sequence_gets_the_rows_before_the_knee() -> None:
    knee = Table([1.0] * 8 + [5.0])
    choice = choose([Offer("bad", (0.2,) * 4), Offer("good", (0.9,) * 5)], plain(2), knee)
    assert choice.lengths["good"] == 5
    assert sum(choice.lengths.values()) <= 6


def test_a_dent_in_the_cost_is_crossed() -> None:
    """8 rows may cost more than 16 (Q4_K_M): the likely rows beyond are found."""
    dent = Table([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0] + [1.2] * 9)
    choice = choose([Offer("a", (0.99,) * 15)], plain(), dent)
    assert choice.lengths["a"] > 8


def test_a_draft_model_s_own_steps_are_counted() -> None:
    flat, offer = Table([1.0]), Offer("a", (0.8,) * 8, drafted=True)
    cheap = choose([offer], plain(), flat, lambda _rows: 0.05)
    dear = choose([offer], plain(), flat, lambda _rows: 0.5)
    assert cheap.lengths["a"] > dear.lengths["a"] > 0
    assert choose([offer], plain(), flat, lambda _rows: 0.9) is NOTHING


def test_drafting_for_several_costs_one_step_per_token_not_per_sequence() -> None:
    flat = Table([1.0])
    offers = [Offer(str(k), (0.6,) * 2, drafted=True) for k in range(8)]
    assert choose(offers[:1], plain(8), flat, lambda _rows: 0.3) is NOTHING
    assert len(choose(offers, plain(8), flat, lambda _rows: 0.3).lengths) == 8


def test_a_prompt_in_the_step_is_not_delayed_for_less() -> None:
    """64 rows of a prompt in the step: a guess has to be worth as much as they are."""
    cost = linear(0.1, 0.1)
    assert choose([Offer("a", (0.9,))], Plain(Ahead(decodes=1), 64, 16), cost) is NOTHING
    assert choose([Offer("a", (0.9,))], plain(), linear(0.9, 0.1)).lengths == {"a": 1}


chances = st.lists(st.floats(0.5, 1.0), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(chances, min_size=1, max_size=3),
    st.lists(st.floats(0.5, 4.0), min_size=16, max_size=16),
    st.integers(0, 8),
)
def test_no_other_lengths_make_tokens_come_faster(
    all_chances: list[list[float]], costs: list[float], free: int
) -> None:
    offers = [Offer(str(k), tuple(c)) for k, c in enumerate(all_chances)]
    cost, step = Table(costs), plain(len(offers), free)

    def rate(lengths: tuple[int, ...]) -> float:
        tokens = float(step.rows)
        for offer, length in zip(offers, lengths, strict=True):
            gain = 1.0
            for chance in offer.chances[:length]:
                gain *= chance
                tokens += gain
        return tokens / cost.seconds(step.ahead, 0, sum(lengths))

    possible = itertools.product(*(range(len(o.chances) + 1) for o in offers))
    best = max(rate(lengths) for lengths in possible if sum(lengths) <= free)
    choice = choose(offers, step, cost)
    chosen = rate(tuple(choice.lengths.get(o.id, 0) for o in offers))
    assert sum(choice.lengths.values()) <= free
    assert chosen * MARGIN * (1 + 1e-9) >= best
    assert choice is NOTHING or chosen == pytest.approx(best)


def test_where_not_even_certain_guesses_pay_nobody_is_asked() -> None:
    assert best_case(plain(), linear(0.0, 1.0)) is NOTHING
    assert best_case(plain(), linear(1.0, 0.1)) is not NOTHING
    assert best_case(plain(free=0), Table([1.0])) is NOTHING


# The account --------------------------------------------------------------------------------------


def test_whatever_is_believed_the_loss_is_bounded() -> None:
    """Guesses that never pay, believed in at every step: 1.5 s instead of 1 s."""
    account, lost = Account(), 0.0
    for _ in range(5000):
        if account.may_guess(1.0):
            account.book(1.0, lost_s=0.5, won_s=0.0)
            lost += 0.5
        else:
            account.book(1.0, 0.0, 0.0)
    assert lost <= ALLOWANCE * 5000 + CREDIT_STEPS + 1
    assert lost > 0.5 * ALLOWANCE * 5000, "it goes on trying"


def test_winnings_are_not_a_licence_to_lose() -> None:
    account = Account()
    for _ in range(1000):
        account.book(1.0, 0.0, won_s=1.0)
    steps = 0
    while account.may_guess(1.0):
        account.book(1.0, lost_s=1.0, won_s=0.0)
        steps += 1
    assert steps < 20


def test_an_investment_may_be_earned_back_before_the_next() -> None:
    account = Account()
    assert account.may_invest
    account.invest(50.0)
    assert not account.may_invest
    assert account.may_guess(1.0), "else it could never be earned back"
    for _ in range(60):
        account.book(1.0, lost_s=0.1, won_s=1.0)
    assert account.may_invest


def test_an_investment_that_fails_costs_itself_and_the_credit() -> None:
    account, lost = Account(), 50.0
    account.invest(50.0)
    while account.may_guess(1.0):
        account.book(1.0, lost_s=0.5, won_s=0.0)
        lost += 0.5
    assert lost <= 50 + CREDIT_STEPS + 1


# Patience -----------------------------------------------------------------------------------------


def waits(patience: Patience, worked: bool) -> int:
    steps = 0
    while not patience.is_over():
        steps += 1
    patience.tried(worked=worked)
    return steps


def test_what_does_not_work_is_tried_ever_more_rarely() -> None:
    patience = Patience()
    found = [waits(patience, worked=False) for _ in range(12)]
    assert found[:4] == [0, 2 * FIRST_WAIT, 4 * FIRST_WAIT, 8 * FIRST_WAIT]
    assert max(found) == LONGEST_WAIT


def test_what_works_is_tried_again_soon() -> None:
    patience = Patience()
    for _ in range(6):
        waits(patience, worked=False)
    waits(patience, worked=True)
    assert waits(patience, worked=True) == FIRST_WAIT


def test_a_simulated_stream_gains_where_text_repeats_and_loses_nothing_elsewhere() -> None:
    """Two phases of 2,000 tokens: guesses right 10 %, then 95 % of the time."""
    cost, rng = linear(0.9, 0.1), random.Random(1)
    own, account = Acceptance(Acceptance(HALF)), Account()
    speed = []
    for right in (0.1, 0.95):
        tokens, seconds = 0, 0.0
        while tokens < 2000:
            text = [1 if rng.random() < right else 2 for _ in range(9)]
            guess = Guess((1,) * 8, 4)
            offer = Offer("a", own.chances(guess.level, len(guess.tokens)))
            may = account.may_guess(1.0)
            choice = choose([offer], plain(), cost) if may else Choice()
            count = choice.lengths.get("a", 0)
            good = next((i for i in range(count) if text[i] != 1), count)
            own.compare(guess, text[: good + 1])
            step_s = cost.seconds(Ahead(decodes=1), 0, count)
            account.book(1.0, step_s - 1.0, float(good))
            tokens, seconds = tokens + good + 1, seconds + step_s
        speed.append(tokens / seconds)
    assert speed[0] > 0.97
    assert speed[1] > 2.5
