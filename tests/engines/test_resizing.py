"""Resizing a served model: supervisor, worker process, streams that go on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from okno.core.errors import (
    BadRequest,
    BadSetting,
    ContextExceeded,
    DoesNotFit,
    EngineFailed,
    WindowInUse,
)
from okno.core.window import WindowChange
from okno.engines.supervisor import Supervisor
from tests.engines.drive import (
    DEMO,
    SCRIPTED,
    Answer,
    ask,
    ask_all,
    chat,
    running,
    until,
    worker_pid,
)

SLOW: dict[str, Any] = {"script": json.dumps({"step_ms": 5})}
LETTERS = "abcdefghij " * 40


async def under_way(
    supervisor: Supervisor, count: int = 4, *, length: int = 200, max_tokens: int | None = 220
) -> list[asyncio.Task[Answer]]:
    """So many answers, each of `length` letters, that have begun."""
    begun = asyncio.Semaphore(0)
    tasks = [
        asyncio.create_task(
            ask(supervisor, chat(f"long {length}", max_tokens=max_tokens), {3: begun.release})
        )
        for _ in range(count)
    ]
    for _ in tasks:
        await begun.acquire()
    return tasks


async def test_the_demo_model_under_eight_streams_gives_the_same_texts_in_any_window() -> None:
    texts = ["What is okno?", "Привет", "Count to 20", "window", "ctx", "1 2 3", "batch", "Hello"]
    async with running(DEMO, batch_size=8) as supervisor:
        whole = await ask_all(supervisor, *(chat(text, max_tokens=60) for text in texts))
    async with running(DEMO, batch_size=8) as supervisor:
        pid, begun = worker_pid(supervisor), asyncio.Event()
        after = {3: begun.set}
        tasks = [
            asyncio.create_task(
                ask(supervisor, chat(text, max_tokens=60), after if k == 7 else None)
            )
            for k, text in enumerate(texts)
        ]
        await begun.wait()
        grown = await supervisor.resize(WindowChange(ctx=4096))
        back = await supervisor.resize(WindowChange(ctx=1024))
        resized = await asyncio.gather(*tasks)
        assert [a.text for a in resized] == [a.text for a in whole]
        assert (grown.before.ctx, grown.window.ctx, back.window.ctx) == (1024, 4096, 1024)
        assert grown.window.kv_pool_tokens == 8 * 4096
        assert worker_pid(supervisor) == pid


async def test_answers_go_on_and_the_status_tells_the_new_window() -> None:
    async with running(SCRIPTED, **SLOW) as supervisor:
        tasks = await under_way(supervisor)
        done = await supervisor.resize(WindowChange(batch_size=2, ctx=256))
        assert (done.counts.moved, done.counts.waiting_again) == (2, 2)
        status = supervisor.status()
        assert status.window == done.window
        assert (done.window.batch_size, done.window.ctx, done.window.kv_pool_tokens) == (
            2,
            256,
            512,
        )
        assert [(await task).text for task in tasks] == [LETTERS[:200]] * 4
        assert supervisor.status().restarts == 0


async def test_the_limit_of_prompts_follows_the_window() -> None:
    long = "x" * 600
    async with running(SCRIPTED) as supervisor:
        with pytest.raises(ContextExceeded):
            await ask(supervisor, chat(long, max_tokens=5))
        await supervisor.resize(WindowChange(ctx=1024))
        assert (await ask(supervisor, chat(long, max_tokens=5))).text == "xxxxx"
        await supervisor.resize(WindowChange(ctx=64))
        with pytest.raises(ContextExceeded) as refused:
            await ask(supervisor, chat("x" * 80))
        assert refused.value.info.details["n_ctx"] == 64


async def test_a_window_too_small_for_an_answer_under_way_is_refused_with_the_numbers() -> None:
    async with running(SCRIPTED, **SLOW) as supervisor:
        tasks = await under_way(supervisor, 2, max_tokens=None)
        with pytest.raises(WindowInUse) as refused:
            await supervisor.resize(WindowChange(ctx=256))
        assert refused.value.info.details == {"ctx": 256, "n_requests": 2, "largest_tokens": 512}
        assert supervisor.status().window.ctx == 512  # type: ignore[union-attr]
        assert [(await task).text for task in tasks] == [LETTERS[:200]] * 2


async def test_a_window_that_cannot_be_had_leaves_the_old_one_serving() -> None:
    script = json.dumps({"step_ms": 5, "most_cells": 4096})
    async with running(SCRIPTED, script=script) as supervisor:
        tasks = await under_way(supervisor)
        with pytest.raises(DoesNotFit) as refused:
            await supervisor.resize(WindowChange(ctx=4096))
        assert refused.value.info.details == {"needed_bytes": 4 * 4096, "free_bytes": 4096}
        assert supervisor.status().window.ctx == 512  # type: ignore[union-attr]
        assert [(await task).text for task in tasks] == [LETTERS[:200]] * 4


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (WindowChange(batch_size=0), BadRequest),
        (WindowChange(ctx=8), BadRequest),
        (WindowChange(ctx=1024, kv_pool=512), BadSetting),
    ],
)
async def test_what_cannot_be_is_refused(change: WindowChange, error: type[Exception]) -> None:
    async with running(SCRIPTED) as supervisor:
        with pytest.raises(error):
            await supervisor.resize(change)


async def test_the_same_window_costs_nothing() -> None:
    async with running(SCRIPTED) as supervisor:
        done = await supervisor.resize(WindowChange(ctx=512))
        assert done.window == done.before
        assert done.counts.pause_s == 0


async def test_a_pool_that_was_given_stays_and_auto_lets_it_follow() -> None:
    async with running(SCRIPTED, kv_pool_tokens=1000) as supervisor:
        done = await supervisor.resize(WindowChange(batch_size=8))
        assert done.window.kv_pool_tokens == 1000
        done = await supervisor.resize(WindowChange(kv_pool="auto"))
        assert done.window.kv_pool_tokens == 8 * 512
        done = await supervisor.resize(WindowChange(batch_size=2))
        assert done.window.kv_pool_tokens == 2 * 512


async def test_several_at_once_are_done_one_after_the_other() -> None:
    async with running(SCRIPTED, **SLOW) as supervisor:
        tasks = await under_way(supervisor)
        sizes = (1024, 300, 2048)
        done = await asyncio.gather(*(supervisor.resize(WindowChange(ctx=ctx)) for ctx in sizes))
        assert [(d.before.ctx, d.window.ctx) for d in done] == [
            (512, 1024), (1024, 300), (300, 2048),
        ]  # fmt: skip
        assert [(await task).text for task in tasks] == [LETTERS[:200]] * 4


async def test_a_restarted_worker_opens_the_new_window() -> None:
    async with running(SCRIPTED, **SLOW) as supervisor:
        done = await supervisor.resize(WindowChange(batch_size=3, ctx=1024, kv_type="q8_0"))
        tasks = await under_way(supervisor, 1, length=600, max_tokens=None)
        os.kill(worker_pid(supervisor), signal.SIGKILL)
        assert (await tasks[0]).text == ("abcdefghij " * 60)[:600]
        assert supervisor.status().window == done.window


async def test_a_worker_that_dies_of_it_starts_again_with_the_old_window() -> None:
    async with running(SCRIPTED, **SLOW) as supervisor:
        tasks = await under_way(supervisor)
        victim = worker_pid(supervisor)
        os.kill(victim, signal.SIGSTOP)
        resizing = asyncio.create_task(supervisor.resize(WindowChange(ctx=1024)))
        await asyncio.sleep(0)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(EngineFailed, match="old window"):
            await resizing
        assert [(await task).text for task in tasks] == [LETTERS[:200]] * 4
        assert supervisor.status().window.ctx == 512  # type: ignore[union-attr]


async def test_auto_takes_the_planners_pick() -> None:
    async with running(DEMO) as supervisor:
        done = await supervisor.resize(WindowChange(batch_size="auto", ctx="auto"))
        assert any(note.startswith("auto:") for note in done.notes)
        status = supervisor.status()
        assert status.notes == done.notes
        assert status.memory == done.memory
        assert (await ask(supervisor, chat("Hello", max_tokens=5))).text


async def test_a_caller_who_left_does_no_harm() -> None:
    async with running(SCRIPTED, **SLOW) as supervisor:
        tasks = await under_way(supervisor)
        resizing = asyncio.create_task(supervisor.resize(WindowChange(ctx=1024)))
        await asyncio.sleep(0)
        resizing.cancel()
        assert [(await task).text for task in tasks] == [LETTERS[:200]] * 4
        await until(lambda: supervisor.status().in_flight == 0)
        done = await supervisor.resize(WindowChange(ctx=2048))
        assert done.window.ctx == 2048
