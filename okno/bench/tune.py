"""Verify the best few windows of a plan by measurement, on the real engine.

One server is started with the largest batch and the widest context that the candidates share;
each candidate is then one burst of requests on it: how many sequences are live decides what a step
costs, and loading once instead of per candidate leaves the time for measuring.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from okno.bench.served import serve
from okno.bench.tune_load import DECODE_S, Burst, Load
from okno.config.where import NO_FILE
from okno.core.errors import EngineFailed
from okno.core.load import Load as EngineLoad
from okno.core.plan import Figure, PlannedLoad, SpeedPlan
from okno.plan.goals import Goal, key_of
from okno.plan.search import Plan, fits

MOST_RUNS = 6
MOST_S = 180.0
PATIENCE = 1.5  # how far over the limit a first token is still waited for
NOISE = 0.05  # of one burst, half the 90 % interval
RunBurst = Callable[[PlannedLoad, float], Awaitable[Burst]]


@dataclass(frozen=True, slots=True)
class Run:
    """One candidate, predicted and measured. late: its first tokens were not waited for."""

    predicted: PlannedLoad
    burst: Burst
    measured: PlannedLoad | None

    @property
    def late(self) -> bool:
        return self.burst.total_tok_s is None


@dataclass(frozen=True, slots=True)
class Tuned:
    """runs: in the order made. best: the best measured window for the goal, None when no first
    token came in time. left_out: candidates for which no time was left."""

    goal: Goal
    runs: tuple[Run, ...]
    best: PlannedLoad | None
    left_out: int
    seconds: float


def candidates(plan: Plan, ctx_train: int, most: int = MOST_RUNS) -> tuple[PlannedLoad, ...]:
    """The best window of each batch size with the pick's KV type, best first."""
    if plan.pick is None:
        return ()
    key = key_of(plan.goal, ctx_train)
    best: dict[int, PlannedLoad] = {}
    kv_type = plan.pick.load.window.kv_type
    for planned in (*plan.loads, plan.pick):
        window = planned.load.window
        allowed = plan.comfortable(planned) or (plan.is_tight and fits(planned.memory))
        if window.kv_type == kv_type and allowed:
            known = best.get(window.batch_size)
            if known is None or key(planned) > key(known):
                best[window.batch_size] = planned
    return tuple(sorted(best.values(), key=key, reverse=True)[:most])


async def tune(
    chosen: Sequence[PlannedLoad], goal: Goal, ctx_train: int, run_burst: RunBurst, *,
    clock: Callable[[], float] = time.monotonic, most_s: float = MOST_S,
) -> Tuned:  # fmt: skip
    """Measure `chosen` in order while time is left, and pick the best of what was measured."""
    began = clock()
    runs: list[Run] = []
    for planned in chosen:
        left_s = most_s - (clock() - began)
        if runs and _predicted_s(planned) > left_s:
            continue
        limit_s = min(left_s, goal.ttft_limit_s * PATIENCE)
        burst = await run_burst(planned, max(1.0, limit_s))
        runs.append(Run(planned, burst, measured(planned, burst)))
    found = [run.measured for run in runs if run.measured]
    best = max(found, key=key_of(goal, ctx_train), default=None)
    return Tuned(goal, tuple(runs), best, len(chosen) - len(runs), clock() - began)


def measured(planned: PlannedLoad, burst: Burst) -> PlannedLoad | None:
    """`planned` with the figures of the burst; what it does not tell stays predicted."""
    if burst.ttft_s is None or not burst.total_tok_s:
        return None
    total = _figure(burst.total_tok_s)
    user = _figure(burst.total_tok_s / burst.batch_size)
    loaded = _figure(burst.ttft_s)
    prefill = _figure(burst.batch_size * burst.prompt_tokens / burst.ttft_s)
    alone = planned.speed or SpeedPlan(
        burst.prompt_tokens, burst.prompt_tokens, user, user, total, prefill, loaded, loaded
    )
    speed = replace(
        alone, fill_tokens=burst.prompt_tokens, prompt_tokens=burst.prompt_tokens,
        user_tok_s=user, total_tok_s=total, ttft_loaded_s=loaded,
    )  # fmt: skip
    if burst.batch_size == 1:
        speed = replace(speed, alone_tok_s=user, ttft_s=loaded, prefill_tok_s=prefill)
    return replace(planned, speed=speed)


async def tune_model(
    model: Path, chosen: Sequence[PlannedLoad], goal: Goal, ctx_train: int,
    on_run: Callable[[PlannedLoad], None] = lambda planned: None,
) -> Tuned:  # fmt: skip
    """Start `okno serve` once and tune on it, within MOST_S in all.

    Raises EngineFailed with the end of the server's log when it does not start.
    """
    began = time.monotonic()
    async with opened(model, chosen, goal, on_run) as run_burst:
        left_s = MOST_S - (time.monotonic() - began)
        found = await tune(chosen, goal, ctx_train, run_burst, most_s=left_s)
    return replace(found, seconds=time.monotonic() - began)


@asynccontextmanager
async def opened(
    model: Path, chosen: Sequence[PlannedLoad], goal: Goal,
    on_run: Callable[[PlannedLoad], None] = lambda planned: None,
) -> AsyncIterator[RunBurst]:  # fmt: skip
    """A server on which each of `chosen` can be measured, warmed up. Raises EngineFailed."""
    options = serve_options(model, chosen)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "serve.log"
        try:
            async with serve(options, log, ready_timeout_s=MOST_S / 2) as served:
                load = await Load.on(served.address)
                await load.burst(1, 16, limit_s=30.0, decode_s=0.2)  # touch every weight once

                async def run_burst(planned: PlannedLoad, limit_s: float) -> Burst:
                    on_run(planned)
                    await load.idle()
                    return await load.burst(
                        planned.load.window.batch_size, prompt_of(goal, chosen), limit_s=limit_s
                    )

                yield run_burst
        except RuntimeError as error:
            raise EngineFailed(f"The engine could not be measured: {error}") from error


def prompt_of(goal: Goal, chosen: Sequence[PlannedLoad]) -> int:
    """Tokens of a measured prompt: the goal's, with room left in the narrowest window."""
    narrowest = min(planned.load.window.ctx for planned in chosen)
    return max(1, min(goal.prompt_tokens, narrowest - narrowest // 4 - 1))


def serve_options(model: Path, chosen: Sequence[PlannedLoad]) -> list[str]:
    """One server on which every candidate can be measured: the most sequences, and a pool that
    held the largest candidate, so nothing is opened that the plan did not find to fit."""
    load: EngineLoad = max(chosen, key=lambda p: p.load.window.batch_size).load
    window = load.window
    return [
        "--model", str(model), "--batch-size", str(window.batch_size), "--ctx", str(window.ctx),
        "--kv-type", window.kv_type, "--step-tokens", str(window.step_tokens),
        "--gpu-layers", str(load.gpu_layers), "--flash-attention", load.flash_attention,
        "--mmap" if load.mmap else "--no-mmap", "--no-prefix-cache", "--config", NO_FILE,
    ]  # fmt: skip


def _predicted_s(planned: PlannedLoad) -> float:
    """How long its burst would take."""
    if planned.speed is None:
        return 0.0
    return planned.speed.ttft_loaded_s.value + DECODE_S


def _figure(value: float) -> Figure:
    return Figure(value, value * (1 - NOISE), value * (1 + NOISE), "measured")
