"""Rows that only make a step shorter: real steps of a real engine, with and without them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from okno.core.request import Prompt, Request, Sampling, Stop
from okno.core.window import WindowChange
from okno.engines.learning import RowLearner, StepLearner
from okno.engines.llamacpp import LlamaCpp
from okno.engines.loop import EngineLoop
from okno.engines.sampling import Sampler
from okno.engines.task import Task
from okno.engines.text import TextStream
from okno.schedule.sequence import Sequence
from okno.schedule.step import Span, Step, Truncate
from tests.engines.drive import DEMO, options
from tests.engines.test_llama_resize import Decoding, prompts

SMALL = options(DEMO, batch_size=4, ctx=256, threads=1)
# A row computed beside others goes through other kernels: their sums end in other bits.
MOST_APART = 0.02


@pytest.fixture(scope="module")
def engine() -> LlamaCpp:
    return LlamaCpp(SMALL, lambda _fraction: None)


def empty(engine: LlamaCpp) -> None:
    engine.execute_operations([Truncate(seq, 0) for seq in range(engine.limits.seq_ids)])


class Filling(Decoding):
    """Each step with `filler` rows more."""

    filler = 0

    def step(self) -> Step:
        schedule = self.scheduler.schedule
        self.scheduler.schedule = lambda most: replace(schedule(most), filler=self.filler)
        try:
            return super().step()
        finally:
            self.scheduler.schedule = schedule


def answered(engine: LlamaCpp, filler: int) -> Filling:
    empty(engine)
    decoding = Filling(engine)
    decoding.filler = filler
    for n, prompt in enumerate(prompts(engine, 3, 40)):
        decoding.add(f"r{n}", prompt, 20)
    return decoding.finish()


def test_answers_are_the_same_beside_filler(engine: LlamaCpp) -> None:
    plain, filled = answered(engine, 0), answered(engine, 5)
    assert filled.texts == plain.texts
    for id, rows in plain.rows.items():
        for row, beside in zip(rows, filled.rows[id], strict=True):
            assert np.abs(row - beside).max() < MOST_APART


def test_nothing_of_it_stays_in_the_cache(engine: LlamaCpp) -> None:
    """A pool as large as its one sequence and the filler holds it at every step."""
    narrow = LlamaCpp(options(SMALL, batch_size=1, kv_pool_tokens=256), lambda _fraction: None)
    token = np.array([300], dtype=np.int32)
    for position in range(250):
        step = Step((), (Span("a", 0, position, token, 1),), filler=6)
        assert narrow.execute(step).shape[0] == 1


def test_the_sequence_of_the_filler_is_nobodys(engine: LlamaCpp) -> None:
    assert engine.limits.filler_seq is not None
    assert engine.limits.filler_seq >= engine.limits.seq_ids


def test_in_another_window_it_has_another_place(engine: LlamaCpp) -> None:
    opened = LlamaCpp(SMALL, lambda _fraction: None)
    decoding = Decoding(opened)
    decoding.resize(WindowChange(batch_size=20))
    assert opened.limits.filler_seq == opened.limits.seq_ids > engine.limits.seq_ids


@dataclass
class Knee(RowLearner):
    """Steps are shortest with `rows` rows."""

    rows_wanted: int = 8

    def filler(self, step: Step, used_cells: int) -> int:
        return max(0, self.rows_wanted - step.rows)


def run_alone(engine: LlamaCpp, learner: RowLearner) -> EngineLoop:
    empty(engine)
    engine.learner = learner
    loop = EngineLoop(engine, lambda _message: None, time.monotonic)
    ids = (300, 301, 302)
    request = Request("a", Prompt(tokens=ids), Sampling(temperature=0.0), Stop(max_tokens=12))
    sampler = Sampler(request.sampling, seed=1, n_vocab=engine.vocab.n_tokens)
    sequence = Sequence("a", list(ids), max_tokens=len(ids) + 12)
    loop.inbox.put(Task(request, sequence, sampler, TextStream(), engine.vocab))
    while loop.steps < 5:
        loop.once()
    return loop


def test_the_loop_fills_steps_up_and_says_so(engine: LlamaCpp) -> None:
    records = run_alone(engine, Knee()).meter.log.last(5)
    assert [(record.rows, record.filler) for record in records] == [(3, 5)] + [(1, 7)] * 4


def test_no_step_is_filled_beyond_its_rows(engine: LlamaCpp) -> None:
    most = engine.window.step_tokens
    records = run_alone(engine, Knee(rows_wanted=most + 1)).meter.log.last(5)
    assert {record.filler for record in records} == {0}


def test_a_window_without_a_sequence_for_it_is_predicted_without_it() -> None:
    """The largest batch needs all of the engine's sequences; in a smaller window one is left."""
    full = LlamaCpp(options(SMALL, batch_size=256, kv_pool_tokens=512), lambda _fraction: None)
    assert full.limits.filler_seq is None
    assert isinstance(full.learner, StepLearner)
    assert not full.learner.fills
    Decoding(full).resize(WindowChange(batch_size=8))
    assert full.limits.filler_seq is not None
    assert full.learner.fills
