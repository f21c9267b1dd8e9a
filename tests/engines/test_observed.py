"""What real workers tell of their steps: records, counts that survive them, places in the queue."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from itertools import pairwise
from typing import Any

from okno.core.events import Accepted, Delta, Queued
from okno.engines.protocol import Traced
from okno.engines.supervisor import Supervisor
from okno.engines.tally import Histogram
from tests.engines.drive import (
    DEMO,
    SCRIPTED,
    Answer,
    ask,
    ask_all,
    chat,
    options,
    running,
    until,
    worker_pid,
)

SLOW: dict[str, Any] = {"script": json.dumps({"step_ms": 5})}


async def test_the_last_steps_of_the_demo_model_add_up_to_its_answers() -> None:
    async with running(DEMO) as supervisor:
        requests = [
            chat(text, max_tokens=20, client="somebody") for text in ("Hi", "What is okno?")
        ]
        answers = await ask_all(supervisor, *requests)
        found = await supervisor.steps(2048)
    assert found.count == len(found.steps)
    assert [record.step for record in found.steps] == list(range(1, found.count + 1))
    for answer in answers:
        pieces = [
            piece for record in found.steps for piece in record.pieces
            if piece.request == answer.request.id
        ]  # fmt: skip
        usage = answer.finished.usage
        prompt = sum(piece.rows for piece in pieces if not piece.decoding)
        assert prompt == usage.prompt_tokens - usage.cached_tokens
        # The first token comes with the prompt, the last one is never computed.
        told = sum(1 + piece.accepted for piece in pieces if piece.decoding)
        assert told == usage.completion_tokens - 1
        positions = [(p.start, p.start + p.rows - p.drafts + p.accepted) for p in pieces]
        assert all(end == start for (_, end), (start, _) in pairwise(positions))
    starts = [record.start_s for record in found.steps]
    assert starts == sorted(starts)
    assert all(min(r.schedule_s, r.engine_s, r.sample_s) > 0 for r in found.steps)
    assert found.steps[-1].why == "all known"
    assert "somebody" not in repr(found)


async def test_only_as_many_steps_as_were_asked_for() -> None:
    async with running(SCRIPTED) as supervisor:
        await ask(supervisor, chat("long 30"))
        found = await supervisor.steps(3)
    assert [record.step for record in found.steps] == [
        found.count - 2,
        found.count - 1,
        found.count,
    ]


def observed(histogram: Histogram) -> int:
    return sum(histogram.counts)


async def test_counts_go_on_over_the_death_of_a_worker() -> None:
    async with running(SCRIPTED, speculate="off") as supervisor:
        for _ in range(2):
            await ask(supervisor, chat("long 40"))
        await until(lambda: observed(supervisor.status().tally.kv_share) >= 80)
        before = supervisor.status().tally
        assert before.prefix_hits == 1, "the second prompt is the first one's"
        os.kill(worker_pid(supervisor), signal.SIGKILL)
        await until(lambda: supervisor.status().restarts == 1)
        assert supervisor.status().tally == before
        await ask(supervisor, chat("long 40"))
        await until(lambda: observed(supervisor.status().tally.kv_share) >= 120)
        after = supervisor.status().tally
    assert after.rows.total > before.rows.total
    assert after.seconds.total > before.seconds.total
    assert observed(after.kv_share) == observed(after.rows) == observed(after.seconds)


async def test_preemptions_are_counted() -> None:
    async with running(SCRIPTED, kv_pool_tokens=512, speculate="off") as supervisor:
        await ask_all(supervisor, *(chat("long 200") for _ in range(4)))
        found = await supervisor.steps(2048)
        told = sum(record.preemptions for record in found.steps)
        assert told > 0
        # The counts come with a heartbeat, later than the steps.
        await until(lambda: supervisor.status().tally.preemptions >= told)
    assert supervisor.status().tally.preemptions == told


async def test_with_a_trace_every_step_arrives_once_and_in_order() -> None:
    got: list[Traced] = []
    supervisor = Supervisor(options(SCRIPTED, trace=True), on_steps=got.append)
    try:
        await supervisor.start()
        await ask_all(supervisor, *(chat(f"long {40 + k}") for k in range(3)))
        count = (await supervisor.steps(1)).count
        await until(lambda: bool(got) and got[-1].steps[-1].step >= count)
    finally:
        await supervisor.close()
    numbers = [record.step for batch in got for record in batch.steps]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len({batch.began_s for batch in got}) == 1


async def test_without_a_trace_no_step_is_sent() -> None:
    got: list[Traced] = []
    supervisor = Supervisor(options(SCRIPTED, speculate="off"), on_steps=got.append)
    try:
        await supervisor.start()
        await ask(supervisor, chat("long 40"))
        await until(lambda: observed(supervisor.status().tally.rows) >= 40)
    finally:
        await supervisor.close()
    assert got == []


def queued(answer: Answer) -> list[Queued]:
    return [event for event in answer.events if isinstance(event, Queued)]


async def test_who_waits_is_told_where_and_how_long_as_it_moves_up() -> None:
    async with running(SCRIPTED, batch_size=1, speculate="off", **SLOW) as supervisor:
        await ask(supervisor, chat("long 20"))
        started = asyncio.Event()
        first = asyncio.create_task(ask(supervisor, chat("long 260"), {1: started.set}))
        await started.wait()
        others = await ask_all(supervisor, *(chat(f"long 20{k}") for k in range(2)))
        first_answer = await first
    (accepted,) = first_answer.accepted
    assert (accepted.queue_position, accepted.wait_s) == (0, 0.0)
    second, third = sorted(others, key=lambda one: one.accepted[0].queue_position)
    waits = [one.accepted[0].wait_s or 0 for one in (second, third)]
    assert 0 < waits[0] < waits[1]
    assert [event.position for event in queued(third)] == [0]
    assert (queued(third)[0].wait_s or 0) > 0
    assert queued(second) == [], "it was the next one all the time"
    for answer in (second, third):
        kinds = [type(event) for event in answer.events]
        assert kinds[0] is Accepted
        assert Queued not in kinds[kinds.index(Delta) :]


async def test_a_replay_after_a_death_is_not_told_its_place_before_it_was_accepted() -> None:
    async with running(SCRIPTED, batch_size=1, **SLOW) as supervisor:
        victim = worker_pid(supervisor)
        kill = {20: lambda: os.kill(victim, signal.SIGKILL)}
        answers = await asyncio.gather(
            ask(supervisor, chat("long 60"), kill), ask(supervisor, chat("long 61")),
        )  # fmt: skip
    for answer in answers:
        assert isinstance(answer.events[0], Accepted)
        assert len(answer.accepted) == 1
