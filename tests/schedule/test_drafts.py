"""Steps that check guesses: whatever is guessed, texts and books are those without."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits, Sampled, Span, Step, Truncate
from tests.schedule.mirror import MirrorCache, next_token

UNIFIED = Limits(batch_size=4, seq_ids=8, pool_cells=4 * 64)


def alone(prompt: list[int], limit: int, stop: int | None) -> list[int]:
    """The text of a request that runs alone: up to `limit` tokens, or the first `stop`."""
    text = list(prompt)
    while len(text) < limit:
        text.append(next_token(text))
        if text[-1] == stop:
            break
    return text


@dataclass
class Run:
    """A scheduler, the mirror cache, and guesses of any quality."""

    limits: Limits = UNIFIED
    seed: int = 0
    longest: int = 6
    texts: dict[str, list[int]] = field(default_factory=dict)
    stops: dict[str, int | None] = field(default_factory=dict)
    done: dict[str, list[int]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    right: int = 0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits)
        self.cache = MirrorCache(self.limits)
        self.rng = random.Random(self.seed)

    def add(self, id: str, prompt: list[int], answer: int, stop: int | None = None) -> int:
        limit = min(len(prompt) + answer, self.limits.pool_cells)
        self.texts[id], self.stops[id] = list(prompt), stop
        self.scheduler.add(Sequence(id, prompt, max_tokens=limit))
        return limit

    def guesses(self) -> dict[str, list[int]]:
        """Some right tokens, then some wrong ones, for some of the live sequences; also for such
        as do not decode, and for one that nobody knows."""
        found = {"nobody": [1, 2, 3]}
        for sequence in self.scheduler.live.values():
            text = list(self.texts[sequence.id])
            for _ in range(self.rng.randint(0, self.longest)):
                text.append(next_token(text))
            wrong = [self.rng.randrange(50) for _ in range(self.rng.randint(0, 3))]
            if self.rng.random() < 0.8:
                found[sequence.id] = text[len(self.texts[sequence.id]) :] + wrong
        return found

    def step(
        self,
        budget: int = 32,
        guesses: dict[str, list[int]] | None = None,
        leaving: str | None = None,
        failing: str | None = None,
    ) -> Step:
        """leaving: cancelled between the engine's call and its booking. failing: gives nothing."""
        guesses = self.guesses() if guesses is None else guesses
        step = self.scheduler.schedule(budget, None, guesses)
        if step.spans:
            self.cache.execute(step)
            self.check(step)
        if leaving is not None:
            self.scheduler.cancel(leaving)
        sampled = {}
        for span in step.spans:
            if span.logits and span.id == failing:
                self.failed.add(span.id)
                sampled[span.id] = Sampled((), ended=True)
            elif span.logits and span.id != leaving:
                sampled[span.id] = self.sampled(span)
        self.scheduler.update(step, sampled)
        return step

    def sampled(self, span: Span) -> Sampled:
        """What Task.sample does: a token from each row, as long as the drafts agree."""
        text, drafts = self.texts[span.id], span.drafts.tolist()
        assert self.cache.tokens(span.seq) == text + drafts
        limit = self.scheduler.live[span.id].max_tokens
        came: list[int] = []
        for draft in [*drafts, None]:
            came.append(next_token(text))
            text.append(came[-1])
            if came[-1] == self.stops[span.id] or len(text) >= limit:
                self.done[span.id] = text
                return Sampled(tuple(came), ended=True)
            if came[-1] != draft:
                break
        self.right += len(came) - 1
        return Sampled(tuple(came))

    def check(self, step: Step) -> None:
        """Before the booking, the cache holds what is known and the drafts, cell for cell."""
        scheduler, drafts = self.scheduler, {span.id: span.drafts.tolist() for span in step.spans}
        assert scheduler.pool.used == self.cache.used
        for sequence in (*scheduler.live.values(), *scheduler.parked.values()):
            assert sequence.seq is not None
            known = [*sequence.known.view().tolist(), *drafts.get(sequence.id, [])]
            assert self.cache.tokens(sequence.seq) == known[: sequence.computed]
        if scheduler.limits.outputs is not None:
            assert step.outputs <= scheduler.limits.outputs

    def finish(self, budget: int = 32) -> None:
        for _ in range(10_000):
            if not self.scheduler.live and not len(self.scheduler.waiting):
                held = [s.cells.view() for s in self.scheduler.parked.values()]
                assert self.scheduler.pool.used == self.scheduler.pool.distinct(held)
                return
            assert self.step(budget).spans, "a step with work to do runs something"
        raise AssertionError("the scheduler does not come to an end")


def decoding(answer: int = 20, stop: int | None = None, limits: Limits = UNIFIED) -> Run:
    """A run whose request `a` decodes; its prompt is computed."""
    run = Run(limits)
    run.add("a", [3] * 10, answer, stop)
    run.step(guesses={})
    return run


def coming(run: Run, count: int, id: str = "a") -> list[int]:
    """The next tokens of a sequence."""
    text = list(run.texts[id])
    for _ in range(count):
        text.append(next_token(text))
    return text[len(run.texts[id]) :]


def wrong(token: int) -> int:
    return (token + 1) % 50


def test_right_drafts_are_kept_and_bring_one_token_more() -> None:
    run = decoding()
    next_ones = coming(run, 5)
    step = run.step(guesses={"a": next_ones[:4]})
    assert (step.rows, step.outputs, step.decodes) == (5, 5, 1)
    assert run.texts["a"][-5:] == next_ones
    assert run.scheduler.live["a"].remaining == 1
    assert run.step(guesses={}).operations == (), "nothing has to be cut"


def test_wrong_drafts_are_cut_before_the_next_step() -> None:
    run = decoding()
    run.step(guesses={"a": [wrong(coming(run, 1)[0])] * 4})
    assert run.scheduler.pool.used == 11
    assert run.step(guesses={}).operations == (Truncate(0, 11),)


def test_partly_right_drafts_are_kept_as_far_as_they_are_right() -> None:
    run = decoding()
    first, second, third = coming(run, 3)
    run.step(guesses={"a": [first, second, wrong(third), 7]})
    assert run.texts["a"][-3:] == [first, second, third]
    assert run.step(guesses={}).operations == (Truncate(0, 13),)


def test_an_answer_that_ends_inside_a_draft_parks_what_it_said() -> None:
    run = decoding()
    tokens = coming(run, 4)
    run.stops["a"] = tokens[1]
    run.step(guesses={"a": tokens})
    (parked,) = run.scheduler.parked.values()
    end = tokens.index(run.stops["a"])
    assert parked.known.view().tolist() == [*run.done["a"][:11], *tokens[:end]]
    prompt = [*run.done["a"], 5]
    run.add("b", prompt, 3)
    run.finish()
    assert run.done["b"] == alone(prompt, len(prompt) + 3, None)


def test_a_draft_never_leads_beyond_max_tokens() -> None:
    run = decoding(answer=4)
    step = run.step(guesses={"a": coming(run, 9)})
    assert len(step.spans[0].drafts) == 2
    assert len(run.done["a"]) == 14


def test_one_cancelled_between_call_and_booking_keeps_nothing_of_its_drafts() -> None:
    run = decoding()
    run.step(guesses={"a": [49, 48, 47]}, leaving="a")
    (parked,) = run.scheduler.parked.values()
    assert parked.computed == len(parked.known) == 11
    run.add("b", [*run.texts["a"], 1, 2], 5)
    run.finish()
    assert run.done["b"] == alone([*run.texts["a"], 1, 2], 18, None)


@pytest.mark.parametrize("booked", [True, False])
def test_one_that_fails_keeps_nothing_of_its_drafts(booked: bool) -> None:
    run = decoding()
    step = run.scheduler.schedule(32, None, {"a": [49, 48]})
    run.cache.execute(step)
    run.scheduler.update(step, {"a": Sampled((), ended=True)} if booked else {})
    if not booked:
        assert run.scheduler.live["a"].remaining == 0
        run.scheduler.cancel("a")
    (parked,) = run.scheduler.parked.values()
    assert parked.computed == len(parked.known) == 11
    assert run.scheduler.pool.used == 11


def test_drafts_take_free_rows_only() -> None:
    run = decoding(answer=30)
    run.add("long", list(range(40)), 4)
    step = run.step(budget=12, guesses={"a": coming(run, 8)})
    assert [(span.id, len(span.tokens)) for span in step.spans] == [("a", 1), ("long", 11)]
    step = run.step(budget=64, guesses={"a": coming(run, 8)})
    assert [(span.id, len(span.tokens)) for span in step.spans] == [("a", 9), ("long", 29)]


def test_drafts_take_free_cells_only_and_evict_nobody() -> None:
    run = decoding(answer=30, limits=replace(UNIFIED, pool_cells=40))
    run.scheduler.add(Sequence("b", [4] * 20, max_tokens=24))
    run.texts["b"], run.stops["b"] = [4] * 20, None
    run.step(guesses={})
    free = run.scheduler.pool.free
    step = run.step(guesses={"a": coming(run, 16), "b": coming(run, 16, "b")})
    assert sum(len(span.drafts) for span in step.spans) <= free - 2
    assert run.scheduler.preemptions == 0


def test_logits_are_asked_for_no_more_rows_than_the_engine_gives() -> None:
    run = decoding(limits=replace(UNIFIED, outputs=6))
    run.add("b", [5] * 10, 9)
    step = run.step(guesses={"a": coming(run, 16)})
    assert step.outputs == 6
    assert {span.id: span.logits for span in step.spans} == {"a": 5, "b": 1}


def test_models_that_cannot_be_cut_get_no_drafts() -> None:
    run = decoding(limits=replace(UNIFIED, truncates=False))
    assert run.step(guesses={"a": coming(run, 4)}).rows == 1


def test_a_draft_is_no_prefix_of_another_request() -> None:
    """What is only guessed is never shared, even if it is what the next prompt says."""
    run = decoding()
    guess = [wrong(coming(run, 1)[0]), 8, 8]
    known = list(run.texts["a"])
    run.step(guesses={"a": guess})
    run.add("b", [*known, *guess, 9], 3)
    run.step(guesses={})
    assert run.scheduler.live["b"].cached == 10  # the prompt of `a`


arrivals = st.tuples(
    st.integers(0, 3), st.integers(0, 30), st.lists(st.integers(0, 49), min_size=1, max_size=12),
    st.integers(1, 24), st.none() | st.integers(0, 49),
)  # fmt: skip
actions = st.lists(
    st.one_of(
        arrivals,
        st.just("step"),
        st.tuples(st.sampled_from(["cancel", "leave", "fail"]), st.integers(0, 30)),
    ),
    max_size=60,
)
limits = st.builds(
    Limits,
    batch_size=st.integers(1, 4),
    seq_ids=st.integers(4, 9),
    pool_cells=st.sampled_from([60, 90, 200]),
    copies=st.booleans(),
    truncates=st.booleans(),
    parks=st.booleans(),
    outputs=st.none() | st.integers(4, 12),
    slides=st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(limits, actions, st.integers(1, 40), st.integers(0, 10**6))
def test_texts_and_books_are_those_without_drafts(
    limits: Limits, actions: list[object], budget: int, seed: int
) -> None:
    prefixes = [[(p * 7 + i) % 50 for i in range(30)] for p in range(4)]
    run = Run(limits, seed)
    expected: dict[str, list[int]] = {}
    for action in actions:
        match action:
            case "step":
                run.step(budget)
            case ("cancel", int(which)):
                run.scheduler.cancel(f"r{which}")
                if f"r{which}" not in run.done:
                    expected.pop(f"r{which}", None)
            case (("leave" | "fail") as how, int(which)):
                id = f"r{which}"
                run.step(budget, **{"leaving" if how == "leave" else "failing": id})
                if (how == "leave" or id in run.failed) and id not in run.done:
                    expected.pop(id, None)
            case (int(p), int(take), list(tail), int(answer), stop):
                id = f"r{len(run.texts)}"
                prompt = prefixes[p][:take] + tail
                limit = run.add(id, prompt, answer, stop)  # type: ignore[arg-type]
                expected[id] = alone(prompt, limit, stop)  # type: ignore[arg-type]
    run.finish(budget)
    assert {id: run.done[id] for id in expected} == expected


def test_the_property_above_sees_right_drafts() -> None:
    run = Run(seed=1)
    for k in range(6):
        run.add(f"r{k}", [k] * 10, 30)
    run.finish()
    assert run.right > 60
