"""How many guessed tokens a step checks: as many as make tokens come faster, often none.

A guess costs a row. Rows up to the knee cost little, so a guess that is often right pays; what a
row costs here and now says `StepCost` (cost.py), how often guesses are right is learnt. Whoever
guesses is asked at every step, also when nothing is checked: the token sampled then tells whether
the guess would have been right, so nobody has to try a text out to know whether it repeats itself.
Only where guessing itself costs (a draft model) `Patience` tries again now and then, ever more
rarely.

`Account` bounds the damage of wrong beliefs: what speculation loses, by the clock, against what
steps without it are believed to take is at most ALLOWANCE of the time, CREDIT_STEPS steps and one
investment. It is only as good as that belief (docs/benchmarks/speculation.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from okno.schedule.cost import Ahead, StepCost
from okno.schedule.lookup import Guess

LEVELS = 17
SEQUENCE_MEMORY = 0.9  # of one sequence: about the last ten guesses of a level count
SHARED_MEMORY = 0.99
PRIOR_WEIGHT = 4.0
LEAST_CHANCE = 0.05
MARGIN = 1.2  # what is predicted to be so much faster is tried (docs/decisions.md)
SPARE_MARGIN = 1.02  # in rows that cost nothing but their logits
SLOWED = 1.5  # times what a token takes without guesses, for a sequence that has none

ALLOWANCE = 0.02
CREDIT_STEPS = 4
MOST_SAVED_STEPS = 8

FIRST_WAIT = 16
LONGEST_WAIT = 1024


# How often guesses are right ---------------------------------------------------------------------


class Acceptance:
    """The chance that a guess is right, by its level (lookup.Guess), given that those before it
    in the same guess were. expected: of each of LEVELS levels before anything is known, or what
    was learnt of all sequences together."""

    __slots__ = ("_expected", "_memory", "_right", "_tried")

    def __init__(self, expected: Items[float] | Acceptance) -> None:
        self._expected = expected
        self._memory = SEQUENCE_MEMORY if isinstance(expected, Acceptance) else SHARED_MEMORY
        self._right = [0.0] * LEVELS
        self._tried = [0.0] * LEVELS

    def chance(self, level: int) -> float:
        level = min(level, LEVELS - 1)
        expected = self._expected
        prior = expected.chance(level) if isinstance(expected, Acceptance) else expected[level]
        right = self._right[level] + PRIOR_WEIGHT * prior
        return right / (self._tried[level] + PRIOR_WEIGHT)

    def chances(self, level: int, count: int) -> tuple[float, ...]:
        """Of up to `count` tokens that begin at `level`, as long as all of them together have
        LEAST_CHANCE."""
        found, together = [], 1.0
        for at in range(count):
            chance = self.chance(level + at)
            together *= chance
            if together < LEAST_CHANCE:
                break
            found.append(chance)
        return tuple(found)

    def compare(self, guess: Guess, came: Items[int]) -> int:
        """Learn from a guess, checked or not, and the tokens that came: how many were right. Of
        tokens after the first wrong one, or after the end of either, nothing is known."""
        right = 0
        for guessed, token in zip(guess.tokens, came, strict=False):
            self._book(guess.level + right, float(guessed == token))
            if guessed != token:
                break
            right += 1
        if isinstance(self._expected, Acceptance):
            self._expected.compare(guess, came)
        return right

    def _book(self, level: int, right: float) -> None:
        level = min(level, LEVELS - 1)
        self._right[level] = self._memory * self._right[level] + right
        self._tried[level] = self._memory * self._tried[level] + 1.0


# How many to check -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plain:
    """The step without guesses. free_rows: that guesses may take at most. spare_rows: of these, at
    first, so many that would be filled with nothing otherwise, to make the step shorter. beside_s:
    what passes beside what a StepCost tells, with guesses or without. target_s: how long a sequence
    may wait for a token on average; None: SLOWED times as long as without guesses."""

    ahead: Ahead
    prompt_rows: int
    free_rows: int
    spare_rows: int = 0
    beside_s: float = 0.0
    target_s: float | None = math.inf

    @property
    def rows(self) -> int:
        return self.ahead.decodes + self.prompt_rows

    def seconds(self, cost: StepCost, guesses: int = 0) -> float:
        """What it costs with so many guesses."""
        return cost.seconds(self.ahead, self.prompt_rows, guesses) + self.beside_s


@dataclass(frozen=True, slots=True)
class Offer:
    """What could be guessed for sequence `id`: the chance of each token, if those before it were
    right. drafted: a draft model has yet to guess it, one token at a time."""

    id: str
    chances: tuple[float, ...]
    drafted: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """How many tokens of each offer to check; ids without any are left out. faster: by how much
    tokens are expected to come faster, as a factor."""

    lengths: dict[str, int] = field(default_factory=dict)
    faster: float = 1.0


NOTHING = Choice()


_Row = tuple[float, int, Offer]  # chance that it is right, with all before it; its depth; whose


def nothing(_rows: int) -> float:
    """The seconds of a draft model that is not there."""
    return 0.0


def choose(
    offers: Items[Offer],
    plain: Plain,
    cost: StepCost,
    draft_s: Callable[[int], float] = nothing,
) -> Choice:
    """The lengths that make the most tokens a second. A row of the step is worth a token, whether
    it decodes or belongs to a prompt. draft_s: seconds in which the draft model guesses one more
    token for so many sequences.

    The likeliest rows first, so of all ways to spend n rows only the best one is looked at; the
    cost need not be monotonic in n. Left out are numbers of guesses with which some sequence would
    get its tokens too slowly: those of others do not help it.
    """
    plain_s = plain.seconds(cost)
    if plain_s <= 0 or plain.free_rows < 1:
        return NOTHING
    rows = [row for offer in offers for row in _rows(offer)]
    if len(offers) > 1:
        rows.sort(key=_likeliest)
    rows = rows[: plain.free_rows]
    plain_rate = plain.rows / plain_s
    gap_s = SLOWED * plain_s if plain.target_s is None else max(plain_s, plain.target_s)
    best, best_rate = 0, plain_rate
    expected, drafting_s = float(plain.rows), 0.0
    drafted: dict[int, int] = {}
    gains: dict[str, float] = {}
    for count, (gain, depth, offer) in enumerate(rows, 1):
        expected += gain
        gains[offer.id] = gains.get(offer.id, 0.0) + gain
        if offer.drafted:
            beside = drafted.get(depth, 0)
            drafted[depth] = beside + 1
            drafting_s += draft_s(beside + 1) - (draft_s(beside) if beside else 0.0)
        is_spare = count <= plain.spare_rows and not drafting_s
        step_s = plain_s if is_spare else plain.seconds(cost, count) + drafting_s
        if step_s > gap_s * _least_tokens(gains, plain.ahead.decodes):
            continue
        rate = expected / step_s
        margin = SPARE_MARGIN if is_spare else MARGIN
        if rate > max(best_rate, margin * plain_rate):
            best, best_rate = count, rate
    return Choice(_lengths(rows[:best]), best_rate * plain_s / plain.rows) if best else NOTHING


def best_case(plain: Plain, cost: StepCost) -> Choice:
    """What guesses that are always right would bring; NOTHING: not even they would pay."""
    decodes = max(1, plain.ahead.decodes)
    each = -(-plain.free_rows // decodes)
    return choose([Offer(str(k), (1.0,) * each) for k in range(decodes)], plain, cost)


def _least_tokens(gains: Mapping[str, float], decodes: int) -> float:
    """That the step is expected to give the sequence which gets the fewest. gains: of those that
    guess."""
    return 1.0 + min(gains.values()) if len(gains) >= decodes else 1.0


def _rows(offer: Offer) -> Iterator[_Row]:
    gain = 1.0
    for depth, chance in enumerate(offer.chances):
        gain *= chance
        yield gain, depth, offer


def _likeliest(row: _Row) -> tuple[float, int]:
    """First; of equals everybody's next token before anybody's second: a sequence's own rows stay
    in order."""
    return -row[0], row[1]


def _lengths(rows: Items[_Row]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for _, depth, offer in rows:
        lengths[offer.id] = depth + 1
    return lengths


# What it may cost --------------------------------------------------------------------------------


class Account:
    """Seconds that speculation has won or lost against steps without it.

    While it owes more than CREDIT_STEPS steps (beyond what it invested), nothing is guessed;
    ALLOWANCE of the time that passes pays it back. Earlier winnings count up to MOST_SAVED_STEPS.
    """

    def __init__(self) -> None:
        self.balance_s = 0.0
        self._invested_s = 0.0

    def may_guess(self, plain_s: float) -> bool:
        """Guesses that are expected to pay may be checked."""
        return self.balance_s > -CREDIT_STEPS * plain_s - self._invested_s

    @property
    def may_invest(self) -> bool:
        """Something may be spent now that only pays later."""
        return self.balance_s >= 0

    def invest(self, seconds: float) -> None:
        """Spent, to be earned back."""
        self.balance_s -= seconds
        self._invested_s += seconds

    def book(self, plain_s: float, lost_s: float, won_s: float) -> None:
        """A step that would have taken plain_s took lost_s longer and saved won_s of later ones."""
        self.balance_s += ALLOWANCE * plain_s + won_s - lost_s
        self.balance_s = min(self.balance_s, MOST_SAVED_STEPS * plain_s)
        if self.balance_s >= 0:
            self._invested_s = 0.0


class Patience:
    """When to try again what did not pay: after FIRST_WAIT steps, then twice as many, and so on."""

    __slots__ = ("_left", "_wait")

    def __init__(self) -> None:
        self._left = 0
        self._wait = FIRST_WAIT

    def is_over(self) -> bool:
        """A step passes; True when it is time to try."""
        self._left -= 1
        return self._left < 0

    def tried(self, *, worked: bool) -> None:
        self._wait = FIRST_WAIT if worked else min(LONGEST_WAIT, 2 * self._wait)
        self._left = self._wait
