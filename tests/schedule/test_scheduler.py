from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.schedule.scheduler import Copy, Limits, Sampled, Scheduler, Step, Truncate
from okno.schedule.sequence import Sequence
from tests.schedule.mirror import MirrorCache, check_books, next_token

UNIFIED = Limits(batch_size=4, seq_ids=8, pool_cells=4 * 64)


@dataclass
class Run:
    """A scheduler driven against the mirror cache, with the mirror's own next token."""

    limits: Limits = UNIFIED
    texts: dict[str, list[int]] = field(default_factory=dict)
    done: dict[str, list[int]] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits)
        self.cache = MirrorCache(self.limits)

    def add(self, id: str, prompt: list[int], answer: int = 4, client: str = "") -> None:
        limit = min(len(prompt) + answer, self.limits.pool_cells)
        self.texts[id] = list(prompt)
        self.scheduler.add(Sequence(id, prompt, max_tokens=limit, client=client))

    def step(self, budget: int = 16, prompt_rows: int | None = None) -> Step:
        step = self.scheduler.schedule(budget, prompt_rows)
        if step.spans:  # as the engine loop does
            self.cache.execute(step)
            check_books(self.scheduler, self.cache)
        sampled: dict[str, Sampled] = {}
        for span in step.spans:
            sequence = self.scheduler.live[span.id]
            self.cached[span.id] = sequence.cached
            if not span.logits:
                continue
            seen = self.cache.tokens(span.seq)
            assert seen == self.texts[span.id], "the cache holds this request's tokens, no others"
            token = next_token(seen)
            self.texts[span.id].append(token)
            ended = len(self.texts[span.id]) >= sequence.max_tokens
            sampled[span.id] = Sampled((token,), ended)
            if ended:
                self.done[span.id] = self.texts[span.id]
        self.scheduler.update(step, sampled)
        self.steps.append(step)
        return step

    def finish(self, budget: int = 16) -> None:
        for _ in range(10_000):
            if not self.scheduler.live and not len(self.scheduler.waiting):
                return
            assert self.step(budget).spans, "a step with work to do runs something"
        raise AssertionError("the scheduler does not come to an end")


def alone(prompt: list[int], answer: int) -> list[int]:
    text = list(prompt)
    for _ in range(answer):
        text.append(next_token(text))
    return text


def test_batch_size_is_exactly_how_many_are_decoded_at_once() -> None:
    run = Run(replace(UNIFIED, batch_size=2))
    for k in range(5):
        run.add(f"r{k}", [k] * 10, answer=6)
    most = 0
    while len(run.done) < 5:
        run.step(budget=64)
        most = max(most, len(run.scheduler.live))
    assert most == 2


def test_batch_size_one_answers_one_after_the_other_in_order() -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    for k in range(8):
        run.add(f"r{k}", [k] * 10, answer=6)
    run.finish()
    assert list(run.done) == [f"r{k}" for k in range(8)]
    assert all(len({span.id for span in step.spans}) <= 1 for step in run.steps)


def test_a_long_prompt_advances_in_pieces_beside_running_sequences() -> None:
    run = Run()
    run.add("short", [1] * 10, answer=30)
    run.step()
    run.add("long", list(range(40)), answer=4)
    while "long" not in run.done:
        step = run.step(budget=8)
        assert step.rows <= 8
        assert any(span.id == "short" and span.logits for span in step.spans)


def test_prompt_rows_bounds_only_the_prompt_pieces() -> None:
    run = Run()
    run.add("a", [1] * 10, answer=20)
    run.step()
    run.add("b", list(range(30)), answer=2)
    step = run.step(budget=64, prompt_rows=5)
    assert [len(span.tokens) for span in step.spans] == [1, 5]


def test_the_next_turn_of_a_conversation_starts_from_its_parked_prefix() -> None:
    run = Run()
    run.add("turn1", list(range(20)), answer=5)
    run.finish()
    run.add("turn2", [*run.done["turn1"], 7, 7, 7], answer=3)
    run.step()
    assert run.cached["turn2"] == 24  # 20 + 5, of which the last was never computed


def test_choices_of_one_prompt_compute_it_once() -> None:
    run = Run()
    prompt = list(range(48))
    for k in range(4):
        run.add(f"c{k}", prompt, answer=8)
    run.finish()
    computed = sum(step.rows for step in run.steps)
    assert computed < 48 + 4 * 8 + 4
    assert sorted(run.cached.values()) == [0, 47, 47, 47]


def test_a_diverging_prompt_copies_the_common_part_and_leaves_the_donor() -> None:
    run = Run()
    run.add("a", list(range(30)), answer=2)
    run.finish()
    run.add("b", [*range(20), 40, 41, 42], answer=2)
    step = run.step()
    assert step.operations == (Copy(0, 1, 20),)
    assert len(run.scheduler.parked) == 1


def test_without_copies_the_parked_sequence_is_taken_over_and_cut() -> None:
    run = Run(Limits(batch_size=2, seq_ids=2, pool_cells=128, copies=False))
    run.add("a", list(range(30)), answer=2)
    run.finish()
    run.add("b", [*range(20), 40, 41, 42], answer=2)
    step = run.step()
    assert step.operations == (Truncate(0, 20),)


def test_models_that_cannot_roll_back_reuse_only_whole_conversations() -> None:
    run = Run(replace(UNIFIED, truncates=False))
    run.add("a", list(range(30)), answer=2)
    run.finish()
    run.add("other", [*range(20), 40, 41], answer=2)
    run.add("next", [*run.done["a"], 5, 5], answer=2)
    run.finish()
    assert run.cached["other"] == 0
    assert run.cached["next"] == 31


def test_a_small_pool_preempts_the_youngest_and_every_request_ends_whole() -> None:
    run = Run(Limits(batch_size=4, seq_ids=8, pool_cells=70))
    for k in range(4):
        run.add(f"r{k}", [k, *range(12)], answer=40)
    run.finish()
    assert run.scheduler.preemptions > 0
    for k in range(4):
        assert run.done[f"r{k}"] == alone([k, *range(12)], 40)


def test_a_client_that_floods_does_not_starve_another() -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    for k in range(20):
        run.add(f"flood{k}", [k] * 30, answer=2, client="flood")
    run.step()
    run.add("other", [9] * 5, answer=2, client="quiet")
    while "other" not in run.done:
        run.step()
    assert len(run.done) <= 3


def test_position_counts_those_admitted_before() -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    for k in range(3):
        run.add(f"r{k}", [k] * 10)
    assert [run.scheduler.position(f"r{k}") for k in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("state", ["waiting", "prefill", "decode"])
def test_a_cancelled_request_frees_its_slot_at_once(state: str) -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    if state == "waiting":
        run.add("first", [1] * 10)
        run.step()
    run.add("gone", list(range(30)), answer=20)
    for _ in range({"waiting": 0, "prefill": 1, "decode": 6}[state]):
        run.step(budget=8)
    run.scheduler.cancel("gone")
    run.add("next", [3] * 10)
    run.finish()
    assert run.done["next"] == alone([3] * 10, 4)
    assert "gone" not in run.done


def test_operations_are_not_lost_in_a_step_without_rows() -> None:
    run = Run(replace(UNIFIED, parks=False))
    run.add("short", [1, 2, 3], answer=2)
    run.finish()
    assert run.step().spans == ()
    run.add("next", [4] * 20, answer=2)
    assert run.step().operations == (Truncate(0, 0),)
    run.finish()


def test_cancel_of_an_unknown_request_is_ignored() -> None:
    Run().scheduler.cancel("nobody")


arrivals = st.tuples(
    st.integers(0, 3),  # which common prefix
    st.integers(0, 30),  # how much of it
    st.lists(st.integers(0, 49), min_size=1, max_size=12),
    st.integers(1, 12),  # answer length
    st.integers(0, 2),  # client
)
actions = st.lists(
    st.one_of(
        arrivals,
        st.just("step"),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
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
)


@settings(max_examples=400, deadline=None)
@given(limits, actions, st.integers(1, 40))
def test_no_schedule_loses_repeats_reorders_or_mixes_tokens(
    limits: Limits, actions: list[object], budget: int
) -> None:
    prefixes = [[(p * 7 + i) % 50 for i in range(30)] for p in range(4)]
    run = Run(limits)
    expected: dict[str, list[int]] = {}
    for action in actions:
        match action:
            case "step":
                run.step(budget)
            case ("cancel", int(which)):
                run.scheduler.cancel(f"r{which}")
                if f"r{which}" not in run.done:
                    expected.pop(f"r{which}", None)
            case (int(p), int(take), list(tail), int(answer), int(client)):
                id = f"r{len(run.texts)}"
                prompt = prefixes[p][:take] + tail
                run.add(id, prompt, answer, client=str(client))
                expected[id] = alone(prompt, answer)
    run.finish(budget)
    assert {id: run.done[id] for id in expected} == expected
    parked = [s.cells.view() for s in run.scheduler.parked.values()]
    assert run.scheduler.pool.used == run.scheduler.pool.distinct(parked)
