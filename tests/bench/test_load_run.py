from __future__ import annotations

import math
from itertools import pairwise

from okno.bench.load_client import LoadRequest, Target
from okno.bench.load_mix import parse_mix
from okno.bench.load_run import Due, LoadPlan, run_load
from tests.bench.openai_stub import Stub, serving

PATH = "/v1/completions"


def plan(seed: int = 1, **more: int) -> LoadPlan:
    return LoadPlan(parse_mix("short-long"), seed, rate_per_s=2.0, duration_s=30.0, **more)


def test_a_plan_repeats_by_seed_and_its_prompts_differ() -> None:
    due = plan().due()
    assert due == plan().due()
    assert due != plan(seed=2).due()
    assert len({item.request.prompt.split()[0] for item in due}) == len(due) > 30
    assert [item.at_s for item in due] == sorted(item.at_s for item in due)


def test_a_shared_prefix_changes_nothing_else() -> None:
    alone, shared = plan().due(), plan(shared_prefix_words=9).due()
    assert [item.at_s for item in alone] == [item.at_s for item in shared]
    for one, other in zip(alone, shared, strict=True):
        assert other.request.prompt.split()[9:] == one.request.prompt.split()


async def test_no_request_waits_for_an_earlier_answer() -> None:
    """The stub answers only when all five are there."""
    due = [Due(0.0, LoadRequest(f"p{n}", 3)) for n in range(5)]
    with serving(Stub(together=5)) as address:
        answers = await run_load(Target(address, PATH), due, timeout_s=60)
    assert [answer.problem for answer in answers] == [None] * 5


async def test_concurrency_holds_requests_back_and_ttft_counts_the_wait() -> None:
    due = [Due(0.0, LoadRequest(f"p{n}", 3)) for n in range(4)]
    with serving(Stub()) as address:
        answers = await run_load(Target(address, PATH), due, concurrency=1)
    for earlier, later in pairwise(answers):
        assert later.sent_s >= earlier.ended_s
        assert later.ttft_s is not None
        assert later.ttft_s >= earlier.ended_s


async def test_answers_come_in_the_order_of_requests_and_each_is_told_once() -> None:
    due = [Due(0.01 * n, LoadRequest(f"p{n}", n + 1)) for n in range(4)]
    told = []
    with serving(Stub()) as address:
        answers = await run_load(Target(address, PATH), due, on_answer=told.append)
    assert [answer.asked_tokens for answer in answers] == [1, 2, 3, 4]
    assert [answer.due_s for answer in answers] == [item.at_s for item in due]
    assert sorted(told, key=lambda a: a.due_s) == answers
    assert all(answer.sent_s >= answer.due_s for answer in answers)


def test_an_infinite_rate_makes_a_burst() -> None:
    burst = LoadPlan(
        parse_mix("fixed:4,2"), 0, math.inf, requests=3, duration_s=math.inf, ignore_eos=True
    ).due()
    assert [item.at_s for item in burst] == [0.0, 0.0, 0.0]
    assert all(item.request.ignore_eos for item in burst)
