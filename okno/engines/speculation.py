"""Speculation in the loop: who guesses next tokens, how many are checked, what was right.

`propose` comes before the scheduler, `learn` after the step. Guesses come from a sequence's own
text (schedule/lookup_source.py), from a draft model or the model's own prediction head
(draft_source.py); how many are checked decides schedule/drafting.py. The answer is the same with
and without: a guess is kept only where sampling agrees with it (Task.sample).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass

from okno.core.window import Window
from okno.engines.draft_source import DraftSource
from okno.engines.drafter import Drafter
from okno.engines.engine import Engine
from okno.engines.guess_cost import GuessCost
from okno.engines.protocol import WorkerOptions
from okno.schedule.cost import Ahead, StepCost
from okno.schedule.drafting import (
    NOTHING,
    Account,
    Choice,
    Offer,
    Plain,
    best_case,
    choose,
    nothing,
)
from okno.schedule.lookup import Guess
from okno.schedule.lookup_source import LONGEST_GUESS, LookupSource
from okno.schedule.pacer import Target
from okno.schedule.row_cost import RowCost
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Sampled, Step

DRAFTED_AT_ONCE = 16  # sequences that the draft model is asked about in one step
PLAIN_EVERY = 32  # steps, of which one goes without guesses, to measure what that takes
STRANGE = 4.0  # times what was expected
FIRST_STEPS = 5
NEWEST = 0.1  # the share of the newest step in what passes beside the engine
FEW = 4  # sequences: their texts are looked at in every step
IN_VAIN = 8  # steps without a guess worth checking, after which many are looked at less often,
LOOKED_EVERY = 4  # in one step of so many
JUDGED_STEPS = 16  # for which a judgement holds whether certain guesses would pay


@dataclass(slots=True)
class Counts:
    """Since the start: steps that decoded, those that checked guesses, tokens checked, and of
    them right."""

    steps: int = 0
    checking_steps: int = 0
    checked: int = 0
    right: int = 0


@dataclass(frozen=True, slots=True)
class _Checked:
    """A step that ran. rows: without the guesses it checked, which were `right` so often; `decodes`
    of them gave a token."""

    rows: int = 0
    decodes: int = 0
    checked: int = 0
    right: int = 0


def no_rows(_ahead: Ahead, _prompt_rows: int) -> int:
    """Every row costs something."""
    return 0


class Speculation:
    """One for a loop, used by its thread. cost: of a step; None: learnt here, from the steps.
    spare_rows: of the step ahead with so many rows of prompts, those that cost nothing.
    looks_up: guess from the sequences' own text, up to one of `ends`. drafter: guesses at most
    draft_tokens at once. target: the gap between tokens that the guesses of others may cost too."""

    def __init__(
        self,
        window: Window,
        *,
        cost: StepCost | None = None,
        spare_rows: Callable[[Ahead, int], int] = no_rows,
        looks_up: bool = True,
        ends: Container[int] = (),
        drafter: Drafter | None = None,
        draft_tokens: int = LONGEST_GUESS,
        target: Target | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counts()
        self._window = window
        self._measured = RowCost()
        self._cost: StepCost = cost or self._measured
        self._spare_rows = spare_rows
        self._target = target or Target()
        self._account = Account()
        self._text = LookupSource(ends) if looks_up else None
        self._model = DraftSource(drafter, draft_tokens, self._account, clock) if drafter else None
        self._draft_s = self._model.seconds if self._model is not None else nothing
        self._drafted: dict[str, Guess] = {}
        self._spent_s = self._invested_s = 0.0
        self._last = _Checked()
        self._beside_s = 0.0  # of a step, beside what `cost` tells
        self._besides = 0  # steps it was learnt from
        self._in_vain = 0  # steps in which nothing was worth checking
        self._judged: dict[int, tuple[int, bool]] = {}  # rows: until which step, is hopeless

    def resized(self, window: Window) -> None:
        """The loop goes on in `window`."""
        self._window = window

    @property
    def by_model(self) -> Collection[str]:
        """The sequences whose guesses in the next step are the draft model's."""
        return self._drafted.keys()

    # Before the step -----------------------------------------------------------------------------

    def propose(
        self, scheduler: Scheduler, ahead: Ahead, prompt_rows: int
    ) -> Mapping[str, tuple[int, ...]]:
        """Guesses to check in the step `ahead`, by sequence. prompt_rows: that it takes at most."""
        self._drafted, self._spent_s, self._invested_s = {}, 0.0, 0.0
        if self._text is not None:
            self._text.guesses = {}
        decoding = [sequence for sequence in scheduler.live.values() if sequence.decoding]
        if not decoding or not scheduler.limits.takes_back:
            return {}
        if len(decoding) > FEW and self._rests():
            return {}
        plain = self._plain(scheduler, ahead, prompt_rows)
        if self._is_hopeless(plain):
            return {}
        self._forget(scheduler)
        offers = self._text.offers(decoding) if self._text is not None else {}
        if self._model is None:
            choice = self._choice(offers, plain)
        else:
            choice = self._choice_with_model(self._model, decoding, offers, plain)
        self._in_vain = 0 if choice.lengths else self._in_vain + 1
        return self._checked(choice)

    def _rests(self) -> bool:
        """Looking at many texts costs half a millisecond: less often while that brings nothing."""
        return self._in_vain >= IN_VAIN and self.counts.steps % LOOKED_EVERY != 0

    def _plain(self, scheduler: Scheduler, ahead: Ahead, prompt_rows: int) -> Plain:
        """The step without guesses, as far as it can be foretold. Beside prompts there are none:
        their rows take the time that a step may, and are worth a token each for certain."""
        live, most = scheduler.live.values(), self._window.step_tokens
        decodes, uncomputed = ahead.decodes, ahead.prompt_tokens
        rows = min(most, decodes + min(prompt_rows, uncomputed))
        free = min(most, scheduler.pool.free, rows + decodes * LONGEST_GUESS) - rows
        free = 0 if uncomputed else free
        if scheduler.limits.outputs is not None:
            free = min(free, scheduler.limits.outputs - len(live))
        free = max(0, free)
        spare = min(free, self._spare_rows(ahead, rows - decodes)) if free else 0
        return Plain(ahead, rows - decodes, free, spare, self._beside_s, self._target_s)

    @property
    def _target_s(self) -> float | None:
        """As Plain wants it; asked for with 0: no limit."""
        return math.inf if self._target.itl_s == 0 else self._target.itl_s

    def _is_hopeless(self, plain: Plain) -> bool:
        """Not even guesses that are always right would pay beside so many rows."""
        if not plain.free_rows:
            return True
        until, hopeless = self._judged.get(plain.rows, (0, True))
        if self.counts.steps >= until:
            hopeless = best_case(plain, self._cost) is NOTHING
            wait = JUDGED_STEPS if self._knows(plain.rows) else 1
            self._judged[plain.rows] = (self.counts.steps + wait, hopeless)
        return hopeless

    def _knows(self, rows: int) -> bool:
        """What a step of so many rows costs is more than a first impression."""
        return self._cost is not self._measured or self._measured.is_known(rows)

    def _forget(self, scheduler: Scheduler) -> None:
        ids = scheduler.live.keys()
        if self._text is not None:
            self._text.keep(ids)
        if self._model is not None:
            self._model.keep(ids)

    def _choice(self, offers: Mapping[str, Offer], plain: Plain) -> Choice:
        """What to check of the offers: nothing as long as speculation owes time, and now and then,
        to know what a step without it takes."""
        if not offers or not self._account.may_guess(plain.seconds(self._cost)):
            return NOTHING
        if not self._knows(plain.rows) or (self.counts.steps + 1) % PLAIN_EVERY == 0:
            return NOTHING
        return self._worth(list(offers.values()), plain)

    def _worth(self, offers: list[Offer], plain: Plain) -> Choice:
        return choose(offers, plain, self._cost, self._draft_s)

    def _choice_with_model(
        self, model: DraftSource, decoding: list[Sequence], own: dict[str, Offer], plain: Plain
    ) -> Choice:
        """Likewise, with the draft model's guesses where it offers more than the text does."""
        sequences = decoding[:DRAFTED_AT_ONCE]

        def pays(offer: Offer) -> bool:
            return self._worth([offer], plain) is not NOTHING

        drafted = model.offers(sequences, own, pays)
        choice = self._choice(own | drafted, plain)
        self._drafted = model.draft(sequences, drafted, choice.lengths)
        self._spent_s, self._invested_s = model.spent_s, model.invested_s
        return choice

    def _checked(self, choice: Choice) -> dict[str, tuple[int, ...]]:
        """The chosen beginnings of the guesses."""
        found = (self._text.guesses if self._text is not None else {}) | self._drafted
        return {id: found[id].tokens[:n] for id, n in choice.lengths.items() if id in found}

    # After the step ------------------------------------------------------------------------------

    def learn(self, step: Step, sampled: Mapping[str, Sampled]) -> None:
        """`step` gave `sampled`."""
        checked = sum(len(span.drafts) for span in step.spans)
        right = 0
        for id, found in sampled.items():
            right += max(0, len(found.tokens) - 1)
            self._compare(id, found.tokens)
        self._last = _Checked(step.rows - checked, step.decodes, checked, right)
        self._count(self._last)

    def took(self, seconds: float, learnt_s: float) -> None:
        """The last step took so long with all that belongs to it, from the schedule to the events:
        a token more in the same step saves all of that. Not the draft model, which is counted
        apart. learnt_s: of these, what `cost` tells."""
        seconds = max(0.0, seconds - self._spent_s - self._invested_s)
        self._book(self._last, seconds)
        self._measured.learn(self._last.rows + self._last.checked, seconds)
        knows_all = self._cost is self._measured
        if not knows_all and self._last.rows == self._last.decodes:
            self._learn_beside(max(0.0, seconds - learnt_s))

    def _learn_beside(self, seconds: float) -> None:
        """A mean in which a step that met something else counts as STRANGE means at most. It begins
        with the least of the first steps: a worker's very first are slow."""
        self._besides += 1
        if self._besides <= FIRST_STEPS:
            self._beside_s = min(seconds, self._beside_s or seconds)
        else:
            seconds = min(seconds, STRANGE * self._beside_s)
            self._beside_s += NEWEST * (seconds - self._beside_s)

    def _compare(self, id: str, came: tuple[int, ...]) -> None:
        if self._model is not None and id in self._drafted:
            self._model.compare(id, self._drafted[id], came)
        if self._text is not None:
            self._text.compare(id, came)

    def _count(self, last: _Checked) -> None:
        counts = self.counts
        counts.steps += last.decodes > 0
        counts.checking_steps += last.checked > 0
        counts.checked += last.checked
        counts.right += last.right

    def _book(self, last: _Checked, seconds: float) -> None:
        """Settle what was lost and won against the step without. A step that took several times
        what was to be expected met something else."""
        plain_s = self._measured.of(last.rows) or seconds
        lost_s = self._spent_s
        if last.checked:
            expected_s = self._measured.of(last.rows + last.checked) or seconds
            lost_s += min(seconds, STRANGE * expected_s) - plain_s
        self._account.book(plain_s, lost_s, last.right * plain_s / max(1, last.rows))


def speculation_for(engine: Engine, options: WorkerOptions) -> Speculation | None:
    """As the options ask; None: off, or the model cannot take a token back."""
    if options.speculate == "off" or not engine.limits.takes_back:
        return None
    return Speculation(
        engine.window,
        cost=GuessCost(engine) if engine.learner.keeps else None,
        spare_rows=lambda ahead, rows: engine.learner.spare_rows(ahead, rows),
        looks_up=options.speculate in ("auto", "lookup"),
        ends=engine.vocab.end_tokens,
        drafter=engine.drafter,
        draft_tokens=options.draft_tokens,
        target=Target(options.target_itl_s),
    )
