"""What is measured of a step that the real scheduler made."""

from __future__ import annotations

from typing import Any

import pytest

from okno.core.events import Finished, Usage
from okno.engines.meter import Moments, StepMeter
from okno.engines.tally import Drafts
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits, Sampled, Step

LIMITS = Limits(batch_size=4, seq_ids=8, pool_cells=256)
AT = Moments(10.0, 10.5, 12.0, 12.25)


class Owner:
    """The part of a task that the meter looks at."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence


class Bench:
    """A scheduler whose steps are metered; every span that wants a token gets 7, its drafts too
    when they are 7."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.meter = StepMeter(began_s=8.0)
        self.scheduler = Scheduler(limits)
        self.tasks: dict[str, Any] = {}

    def add(self, id: str, prompt: list[int], answer: int = 20) -> None:
        sequence = Sequence(id, prompt, max_tokens=len(prompt) + answer)
        self.tasks[id] = Owner(sequence)
        self.scheduler.add(sequence)

    def step(
        self,
        budget: int = 64,
        allowed: int | None = None,
        at: Moments = AT,
        *,
        ended: bool = False,
        by_model: tuple[str, ...] = (),
        **drafts: list[int],
    ) -> Step:
        self.meter.allowed = allowed
        step = self.scheduler.schedule(
            budget, None if allowed is None else lambda ahead: allowed, drafts
        )
        record = self.meter.opened(step, self.tasks, self.scheduler, budget, by_model)
        sampled = {
            span.id: self._sampled(span.drafts.tolist(), ended)
            for span in step.spans
            if span.logits
        }
        self.scheduler.update(step, sampled)
        self.meter.closed(record, sampled, at, self.scheduler)
        return step

    def _sampled(self, drafts: list[int], ended: bool) -> Sampled:
        right = next((k for k, token in enumerate(drafts) if token != 7), len(drafts))
        return Sampled((7,) * (right + 1), ended)

    @property
    def newest(self) -> Any:
        return self.meter.log.last(1)[0]


def test_a_prompt_is_no_decode_even_where_one_row_of_it_is_left() -> None:
    bench = Bench()
    bench.add("a", [1, 2, 3])
    kinds = []
    for _ in range(4):
        bench.step(allowed=2)
        (piece,) = bench.newest.pieces
        kinds.append((piece.start, piece.rows, piece.decoding))
    assert kinds == [(0, 2, False), (2, 1, False), (3, 1, True), (4, 1, True)]


def test_a_record_has_the_times_of_its_parts_from_the_begin_of_the_worker() -> None:
    bench = Bench()
    bench.add("a", [1, 2, 3])
    bench.step()
    record = bench.newest
    assert (record.step, record.start_s) == (1, 2.0)
    assert (record.schedule_s, record.engine_s, record.sample_s) == (0.5, 1.5, 0.25)
    assert (record.live, record.waiting, record.used_cells) == (1, 0, 3)
    assert record.why == "all known"


def test_drafts_are_counted_apart_with_those_that_were_right() -> None:
    bench = Bench()
    bench.add("a", [1] * 9)
    bench.step()
    bench.step(a=[7, 7, 8])
    assert (bench.newest.decode_rows, bench.newest.draft_rows, bench.newest.accepted) == (1, 3, 2)
    assert bench.meter.tally.drafts == Drafts(3, 2)
    bench.step()
    assert bench.newest.operations == {"truncate": 1}, "the wrong draft is cut off"


def test_drafts_are_told_apart_by_who_guessed_them() -> None:
    bench = Bench()
    bench.add("a", [1] * 9)
    bench.add("b", [2] * 9)
    bench.step()
    bench.step(a=[7, 8], b=[7, 7, 7], by_model=("b",))
    bench.step(by_model=("b",))
    tally = bench.meter.tally
    assert (tally.from_text, tally.from_model) == (Drafts(2, 1), Drafts(3, 3))
    assert (tally.decoding_steps, tally.checking_steps) == (2, 1)
    sources = [[piece.source for piece in record.pieces] for record in bench.meter.log.last(2)]
    assert sources == [["text", "model"], [None, None]]


def test_operations_preemptions_and_reasons_come_from_the_scheduler() -> None:
    bench = Bench(Limits(batch_size=2, seq_ids=4, pool_cells=40))
    bench.add("a", [1] * 18, answer=20)
    bench.add("b", [2] * 18, answer=20)
    for _ in range(8):
        bench.step(allowed=9)
    records = bench.meter.log.after(0)
    assert records[0].why == "prompt_rows"
    assert sum(record.preemptions for record in records) == bench.scheduler.preemptions == 1
    assert bench.meter.tally.preemptions == 1
    assert sum(bench.meter.tally.kv_share.counts) == 8


def test_a_new_scheduler_after_a_resize_counts_on() -> None:
    bench = Bench()
    bench.scheduler.preemptions = 3
    bench.add("a", [1] * 9)
    bench.step()
    bench.scheduler = Scheduler(LIMITS)
    bench.scheduler.preemptions = 1
    bench.add("b", [1] * 9)
    bench.step()
    assert bench.meter.tally.preemptions == 4
    assert bench.newest.preemptions == 1


@pytest.mark.parametrize(("cached", "hits"), [(0, 0), (5, 1)])
def test_a_prompt_that_began_in_the_cache_is_a_hit(cached: int, hits: int) -> None:
    meter = StepMeter(0.0)
    sequence = Sequence("a", [1] * 10, max_tokens=20)
    sequence.cached = cached
    meter.started(sequence)
    assert meter.tally.prefix_hits == hits
    assert meter.lately.cached_share == cached / 10


def test_answers_teach_how_long_answers_become() -> None:
    meter = StepMeter(0.0)
    before = meter.lately.lengths.remaining(0, 4096)
    for _ in range(20):
        meter.answered(Finished("a", "stop", usage=Usage(5, 0, 10)))
    assert meter.lately.lengths.remaining(0, 4096) < before / 4


@pytest.mark.parametrize("ended", [True, False])
def test_the_pace_counts_what_lies_between_steps_but_not_what_lies_idle(ended: bool) -> None:
    """Three steps that follow each other every second; then the sequence ends, or its client leaves
    and the loop runs nothing, and another one comes 100 s later."""
    bench = Bench()
    bench.add("a", [1] * 10)
    bench.step(at=Moments(0.0, 0.0, 0.5, 0.5))
    bench.step(at=Moments(1.0, 1.0, 1.5, 1.5))
    bench.step(at=Moments(2.0, 2.0, 2.5, 2.5), ended=ended)
    if not ended:
        bench.scheduler.cancel("a")
        bench.meter.idle()
    bench.add("b", [2] * 10)
    bench.step(at=Moments(102.0, 102.0, 102.5, 102.5))
    pace = bench.meter.lately.pace
    assert pace is not None
    assert pace.step_s == pytest.approx(1.0)
    assert pace.row_s == pytest.approx(0.05)
    assert bench.newest.seconds == pytest.approx(0.5)
