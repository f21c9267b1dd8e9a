"""The work that is compared: each scenario is a function over one running server (issue 4)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.peers.scene import ScenarioFailed, Scene, Stream, all_whole
from okno.bench.load_mix import LONG_WORDS, SHORT_WORDS, ShortLong
from okno.bench.load_report import Limits, summarise
from okno.bench.load_run import LoadPlan, run_load

Better = Literal["less", "more"]
Figures = Mapping[str, float]

SHORT_TOKENS = 16
STALL_STREAMS, STALL_PROMPT, STALL_ANSWER = 3, 1900, 8
PREFIX_REQUESTS, PREFIX_TOKENS, TAIL_TOKENS, PREFIX_ANSWER = 16, 900, 24, 4
STREAM_ANSWER, ONE_ANSWER = 64, 128
WAITING_REQUESTS, WAITING_PROMPT, WAITING_ANSWER = 24, 120, 48
MIXED_RATE_S, MIXED_SECONDS, MIXED_ANSWER = 0.5, 60.0, 32
MIXED_LIMITS = Limits(ttft_s=5.0, itl_s=0.35)
POOL_REQUESTS, POOL_PROMPT, POOL_ANSWER = 6, 700, 300
FLOOD_REQUESTS, FLOOD_PROMPT, FLOOD_ANSWER = 12, 800, 32
OTHER_REQUESTS, OTHER_PROMPT, OTHER_ANSWER, OTHER_EVERY_S = 10, 40, 8, 1.0
LIVE_ANSWER = 1900  # more than any scenario waits for


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number: its name in the table, its unit, and which way is better."""

    name: str
    unit: str
    better: Better


@dataclass(frozen=True, slots=True)
class Window:
    """What a server is started with for a scenario; scenarios with the same share one start."""

    batch_size: int
    ctx: int
    kv_pool: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """figures: by the keys of what `play` returns."""

    key: str
    title: str
    window: Window
    figures: Mapping[str, Figure]
    play: Callable[[Scene], Awaitable[Figures]]


async def stall(scene: Scene) -> Figures:
    """Three streams decode, a long prompt arrives: their worst gap until it has its first text,
    and its TTFT beside them and, on another prompt, alone."""
    alone = await scene.ask(scene.request(100, STALL_PROMPT, STALL_ANSWER))
    requests = [scene.request(n, SHORT_TOKENS, LIVE_ANSWER) for n in range(STALL_STREAMS)]
    streams = [Stream(scene, request) for request in requests]
    try:
        await asyncio.gather(*(stream.begun() for stream in streams))
        began = time.perf_counter()
        arrival = await scene.ask(scene.request(101, STALL_PROMPT, STALL_ANSWER))
        first_s = arrival.chunks_s[0]
        gaps = [gap for stream in streams for gap in stream.gaps_s(began, first_s)]
    finally:
        await asyncio.gather(*(stream.stop() for stream in streams))
    return {
        "gap": max(gaps),
        "ttft": _ttft(arrival.ttft_s),
        "alone": _ttft(alone.ttft_s),
    }


async def one_prefix(scene: Scene) -> Figures:
    """16 requests at once on one new prefix: seconds until all have their first text."""
    requests = [
        scene.request(n, TAIL_TOKENS, PREFIX_ANSWER, shared_tokens=PREFIX_TOKENS)
        for n in range(PREFIX_REQUESTS)
    ]
    answers = all_whole(await scene.ask_all(requests))
    return {"all_first": max(_ttft(answer.ttft_s) for answer in answers)}


def streams(count: int) -> Callable[[Scene], Awaitable[Figures]]:
    """`count` short prompts at once: tokens of all answers by the time from first to last."""

    async def play(scene: Scene) -> Figures:
        requests = [scene.request(n, SHORT_TOKENS, STREAM_ANSWER) for n in range(count)]
        answers = all_whole(await scene.ask_all(requests))
        seconds = max(a.ended_s for a in answers) - min(a.sent_s for a in answers)
        return {"rate": sum(a.tokens for a in answers) / seconds}

    return play


async def one_stream(scene: Scene) -> Figures:
    """One answer: tokens after the first text by the time since."""
    answer = await scene.ask(scene.request(0, SHORT_TOKENS, ONE_ANSWER))
    seconds = answer.chunks_s[-1] - answer.chunks_s[0]
    if not seconds:
        raise ScenarioFailed("the whole answer came in one piece")
    return {"rate": (answer.tokens - 1) / seconds}


async def waiting(scene: Scene) -> Figures:
    """24 requests for 8 slots: tokens of all prompts and answers by the time until all end."""
    requests = [scene.request(n, WAITING_PROMPT, WAITING_ANSWER) for n in range(WAITING_REQUESTS)]
    answers = all_whole(await scene.ask_all(requests))
    seconds = max(a.ended_s for a in answers) - min(a.sent_s for a in answers)
    made = sum(a.tokens for a in answers)
    asked = sum(a.prompt_tokens or scene.size(WAITING_PROMPT) for a in answers)
    return {"useful": (made + asked) / seconds, "answers": made / seconds}


async def mixed(scene: Scene) -> Figures:
    """Poisson arrivals of short and long prompts for a minute: goodput under the limits. A word of
    the mix is a token here, whatever the tokenizer makes of words."""
    mix = ShortLong(scene.size(MIXED_ANSWER), scene.words(SHORT_WORDS), scene.words(LONG_WORDS))
    plan = LoadPlan(
        mix,
        scene.seed,
        MIXED_RATE_S,
        duration_s=MIXED_SECONDS * scene.scale,
        ignore_eos=scene.ignore_eos,
    )
    summary = summarise(await run_load(scene.target, plan.due()), MIXED_LIMITS)
    if not summary.completed:
        raise ScenarioFailed(f"no request completed: {'; '.join(summary.failure_texts)}")
    return {
        "goodput": summary.goodput,
        "ttft": summary.ttft_s.p99,
        "itl": summary.itl_s.p99,
        "failed": summary.requests - summary.completed,
    }


async def pool(scene: Scene) -> Figures:
    """Six requests, each within the window, that together exceed the pool: how many fail or are
    cut, and the seconds until the last one ends."""
    requests = [scene.request(n, POOL_PROMPT, POOL_ANSWER) for n in range(POOL_REQUESTS)]
    answers = await scene.ask_all(requests)
    seconds = max(a.ended_s for a in answers) - min(a.sent_s for a in answers)
    return {"failed": sum(a.problem is not None for a in answers), "seconds": seconds}


async def flood(scene: Scene) -> Figures:
    """One client sends 12 long prompts at once; another's short requests, one a second: their TTFT
    p99 before and meanwhile (of ten, so the slowest)."""
    unloaded = await _others(scene, first=200)
    requests = [
        scene.request(n, FLOOD_PROMPT, FLOOD_ANSWER, client="flood") for n in range(FLOOD_REQUESTS)
    ]
    flooding = [Stream(scene, request) for request in requests]
    try:
        loaded = await _others(scene, first=300)
    finally:
        await asyncio.gather(*(stream.stop() for stream in flooding))
    return {"unloaded": unloaded, "loaded": loaded}


async def _others(scene: Scene, first: int) -> float:
    """The slowest TTFT of short requests sent one a second, whatever became of earlier ones."""
    sent = []
    async with asyncio.TaskGroup() as group:
        for number in range(first, first + scene.size(OTHER_REQUESTS)):
            request = scene.request(number, OTHER_PROMPT, OTHER_ANSWER, client="other")
            sent.append(group.create_task(scene.ask_all([request])))
            await asyncio.sleep(OTHER_EVERY_S)
    answers = all_whole([answer for task in sent for answer in task.result()])
    return max(_ttft(answer.ttft_s) for answer in answers)


def _ttft(seconds: float | None) -> float:
    if seconds is None:
        raise ScenarioFailed("an answer without text")
    return seconds


MANY, FOUR, ONE = Window(16, 2048), Window(4, 2048), Window(1, 2048)
RATE = {"rate": Figure("tok/s in all", "tok/s", "more")}
SCENARIOS = (
    Scenario("stall", "3 streams decode, a 1,900-token prompt arrives", FOUR, {
        "gap": Figure("worst gap of the streams", "s", "less"),
        "ttft": Figure("TTFT of the arrival", "s", "less"),
        "alone": Figure("TTFT of such a prompt alone", "s", "less"),
    }, stall),
    Scenario("prefix", "16 requests at once on a 900-token prefix", MANY, {
        "all_first": Figure("until all first texts", "s", "less"),
    }, one_prefix),
    Scenario("streams-16", "16 streams, short prompts", MANY, RATE, streams(16)),
    Scenario("one", "one stream", ONE, {"rate": Figure("decode", "tok/s", "more")}, one_stream),
    Scenario("mixed", "0.5 arrivals/s, 80 % 40-token, 20 % 800-token prompts", MANY, {
        "goodput": Figure("goodput (TTFT <= 5 s, ITL p90 <= 0.35 s)", "requests/s", "more"),
        "ttft": Figure("TTFT p99", "s", "less"),
        "itl": Figure("ITL p99", "s", "less"),
        "failed": Figure("failed", "requests", "less"),
    }, mixed),
    Scenario("streams-32", "32 streams, short prompts", Window(32, 1024), RATE, streams(32)),
    Scenario("waiting", "8 slots, 24 requests of 120 + 48 tokens", Window(8, 2048), {
        "useful": Figure("prompts and answers", "tok/s", "more"),
        "answers": Figure("answers alone", "tok/s", "more"),
    }, waiting),
    Scenario("flood", "one client floods 12 long prompts, 8 slots", Window(8, 2048), {
        "loaded": Figure("another's short TTFT p99", "s", "less"),
        "unloaded": Figure("the same, unloaded", "s", "less"),
    }, flood),
    Scenario("pool", "6 requests of 1,000 tokens, a pool of 4,096", Window(6, 2048, 4096), {
        "failed": Figure("failed or cut", "requests", "less"),
        "seconds": Figure("until the last one ends", "s", "less"),
    }, pool),
)  # fmt: skip
