"""Tuning keeps to its budget, believes what it measured, and measures tokens exactly."""

from __future__ import annotations

from itertools import count

import pytest

from okno.bench.served import serve
from okno.bench.tune import MOST_RUNS, candidates, measured, serve_options, tune, tune_model
from okno.bench.tune_load import Burst, Load, _Stream
from okno.core.errors import EngineFailed
from okno.inspect.models import demo_model
from okno.plan.goals import Goal
from okno.plan.search import Plan, fits, plan_windows
from tests.plan.fakes import MIB, KneeSpeed, LinearMemory, a_header, a_machine

HEADER = a_header()


def a_plan(speed=None, free_mib: int = 8000, **goal) -> Plan:
    memory = LinearMemory(free_mib * MIB)
    return plan_windows(HEADER, a_machine(free_mib * MIB), memory, speed, Goal(**goal))


def chosen(plan: Plan):
    return candidates(plan, HEADER.ctx_train)


def test_candidates_are_the_best_window_of_each_batch_size_and_fit():
    plan = a_plan(KneeSpeed())
    found = chosen(plan)
    batches = [planned.load.window.batch_size for planned in found]
    assert found[0] == plan.pick
    assert len(set(batches)) == len(batches) <= MOST_RUNS
    assert all(fits(planned.memory) for planned in found)
    assert chosen(a_plan(free_mib=100)) == ()


def answering(rates: dict[int, float | None], asked: list[int] | None = None):
    """A load that gives batch sizes these tokens/s in all; None: no first token in time."""

    async def run_burst(planned, limit_s) -> Burst:
        batch = planned.load.window.batch_size
        if asked is not None:
            asked.append(batch)
        rate = rates.get(batch, 1.0)
        return Burst(batch, 512, None if rate is None else 0.1, rate, 100)

    return run_burst


async def test_what_was_measured_wins_over_what_was_predicted():
    plan = a_plan(KneeSpeed(), min_tok_s=0.1)
    assert plan.pick.load.window.batch_size == 8
    found = await tune(chosen(plan), plan.goal, 8192, answering({4: 900.0, 8: 100.0}))
    assert found.best.load.window.batch_size == 4
    assert found.best.speed.total_tok_s.kind == "measured"
    assert found.best.speed.user_tok_s.value == 225.0


async def test_a_window_without_a_first_token_in_time_is_not_picked():
    plan = a_plan(KneeSpeed(), min_tok_s=0.1)
    found = await tune(chosen(plan), plan.goal, 8192, answering({8: None}))
    assert found.runs[0].late
    assert found.best.load.window.batch_size != 8
    nobody = await tune(chosen(plan)[:1], plan.goal, 8192, answering({8: None}))
    assert nobody.best is None


async def test_a_run_for_which_no_time_is_left_is_left_out():
    plan = a_plan(KneeSpeed(step_s=0.01, prefill_tok_s=50), max_ttft_s=1000)  # 10 s a prompt
    clock = count(0, 60).__next__  # every look at the clock is a minute later
    asked: list[int] = []
    found = await tune(
        chosen(plan), plan.goal, 8192, answering({}, asked), clock=lambda: float(clock())
    )
    assert len(asked) == len(found.runs) < len(chosen(plan))
    assert found.left_out == len(chosen(plan)) - len(found.runs)


def test_a_single_stream_tells_the_first_token_alone_too():
    planned = next(p for p in a_plan(KneeSpeed()).loads if p.load.window.batch_size == 1)
    speed = measured(planned, Burst(1, 512, 2.0, 40.0, 50)).speed
    assert {f.kind for f in (speed.ttft_s, speed.alone_tok_s, speed.prefill_tok_s)} == {"measured"}
    assert speed.prefill_tok_s.value == 256.0


def test_rates_count_from_the_first_event_with_all_decoding():
    """Events of 1, 1, 2, 2 tokens: three intervals of half a second hold five tokens."""
    stream = _Stream([0.0, 0.5, 1.0, 1.5, 2.0], [9, 1, 1, 2, 2])
    assert stream.rate(since_s=0.4) == pytest.approx(5 / 1.5)
    assert stream.rate(since_s=1.9) == 0.0


def test_the_server_is_opened_no_larger_than_a_candidate_that_fits():
    found = chosen(a_plan(KneeSpeed()))
    options = serve_options(demo_model().path, found)
    batch = int(options[options.index("--batch-size") + 1])
    ctx = int(options[options.index("--ctx") + 1])
    assert any((p.load.window.batch_size, p.load.window.ctx) == (batch, ctx) for p in found)


async def test_a_real_engine_is_tuned():
    goal = Goal(prompt_tokens=64, max_ttft_s=20, min_tok_s=0.1)
    plan = plan_windows(
        a_header(1024), a_machine(), LinearMemory(8 << 30), KneeSpeed(prompt_tokens=64), goal
    )
    two = [p for p in plan.loads if p.load.window.batch_size in (1, 2) and p.load.window.ctx == 512]
    found = await tune_model(demo_model().path, two, goal, 1024)
    assert [run.burst.batch_size for run in found.runs] == [1, 2]
    assert all(run.burst.n_tokens >= 8 for run in found.runs)
    assert found.best.speed.total_tok_s.kind == "measured"


async def test_a_load_that_the_server_refuses_is_an_error(tmp_path):
    options = ["--model", "demo", "--ctx", "64", "--batch-size", "1", "--config", "none"]
    async with serve(options, tmp_path / "log") as served:
        load = await Load.on(served.address)
        with pytest.raises(EngineFailed, match="refused"):
            await load.burst(1, 500, limit_s=20)
