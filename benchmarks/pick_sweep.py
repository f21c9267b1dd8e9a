"""Is the pick the best there is? An exhaustive measured sweep against the plan's pick and `tune`.

    python benchmarks/pick_sweep.py MODEL.gguf ... --out docs/benchmarks/pick-sweep.md

For every batch size that fits (also between the powers of two) one burst is measured `--repeats`
times, in changing order: so many prompts at once, the last one's first token, then tokens/s in all
with all decoding. The best measured batch that keeps the limit on the first token is compared with
what `okno plan` picked from the calibration alone and with what `okno tune` found within its six
runs. Calibrate first (`okno calibrate`), and run it on a quiet machine. Nothing is written to the
store.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from okno.advisor.planning import make_plan
from okno.advisor.report import PlanReport
from okno.advisor.request import Words, plan_request
from okno.bench.report import environment, publish, table
from okno.bench.tune import PATIENCE, Tuned, candidates, opened, tune_model
from okno.bench.tune_load import Burst
from okno.core.plan import PlannedLoad
from okno.inspect.hardware.overrides import Overrides
from okno.plan.goals import Goal
from okno.plan.search import window_of

GOAL_SHARE = 0.97
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
HEADER = ("model", "limit", "best of the sweep", "pick", "pick / best", "tune", "tune / best",
          "tune runs", "tune time")  # fmt: skip
SWEEP = ("model", "batch", "predicted tok/s", "measured tok/s", "measured / predicted",
         "predicted last first token", "measured")  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A batch size: the medians of its bursts. rate 0: no first token within the limit."""

    planned: PlannedLoad
    rate: float
    ttft_s: float

    @property
    def batch(self) -> int:
        return self.planned.load.window.batch_size


@dataclass(frozen=True)
class Swept:
    """One model."""

    name: str
    report: PlanReport
    points: tuple[Point, ...]
    tuned: Tuned

    @property
    def best(self) -> Point:
        """The most tokens/s in all that keeps the limits."""
        goal = self.report.plan.goal
        kept = [point for point in self.points if keeps(point, goal)]
        return max(kept or self.points, key=lambda point: point.rate)

    def rate_at(self, planned: PlannedLoad | None) -> float:
        """What the sweep measured for a pick; 0 when it misses a limit that the best keeps."""
        if planned is None:
            return 0.0
        batch = planned.load.window.batch_size
        point = next(point for point in self.points if point.batch == batch)
        goal = self.report.plan.goal
        return point.rate if keeps(point, goal) or not keeps(self.best, goal) else 0.0


def keeps(point: Point, goal: Goal) -> bool:
    """It meets the limits of `goal`."""
    user = point.rate / point.batch
    return 0 < point.ttft_s <= goal.ttft_limit_s and user >= goal.tok_s_floor


def sweep(model: Path, options: argparse.Namespace) -> Swept:
    """Plan, tune, and measure everything."""
    words = Words(
        model=str(model), max_ttft=options.max_ttft, min_tok_s=options.min_tok_s,
        prompt_tokens=options.prompt_tokens, ctx=options.ctx,
    )  # fmt: skip
    report = make_plan(plan_request(words, overrides=Overrides()))
    if report.plan.pick is None:
        raise SystemExit(f"{model}: {' '.join(report.plan.why)}")
    ctx_train = report.subject.ctx_train
    tuned = asyncio.run(
        tune_model(model, candidates(report.plan, ctx_train), report.plan.goal, ctx_train)
    )
    points = asyncio.run(measure(model, report, options))
    return Swept(model.stem, report, points, tuned)


async def measure(
    model: Path, report: PlanReport, options: argparse.Namespace
) -> tuple[Point, ...]:
    """Every batch size, `--repeats` times in changing order."""
    goal = report.plan.goal
    chosen = windows(report, options.batches)
    bursts: dict[int, list[Burst]] = {p.load.window.batch_size: [] for p in chosen}
    order = random.Random(0)
    async with opened(model, chosen, goal) as run_burst:
        for _ in range(options.repeats):
            for planned in order.sample(chosen, len(chosen)):
                burst = await run_burst(planned, goal.ttft_limit_s * PATIENCE)
                bursts[burst.batch_size].append(burst)
    return tuple(point(planned, bursts[planned.load.window.batch_size]) for planned in chosen)


def windows(report: PlanReport, batches: Sequence[int]) -> list[PlannedLoad]:
    """One window per batch size that fits: those of the plan, and those between them in the
    window of the next larger one."""
    pick = report.plan.pick
    assert pick is not None
    known = {p.load.window.batch_size: p for p in candidates(report.plan, 1 << 30, most=99)}
    known[pick.load.window.batch_size] = pick
    found = []
    for batch in sorted({*batches, pick.load.window.batch_size}):
        larger = [planned for size, planned in sorted(known.items()) if size >= batch]
        if larger:
            of = larger[0].load
            load = window_of(of, batch, of.window.ctx, of.window.kv_type)
            found.append(known.get(batch) or PlannedLoad(load, larger[0].memory))
    return found


def point(planned: PlannedLoad, bursts: Sequence[Burst]) -> Point:
    rates = [burst.total_tok_s or 0.0 for burst in bursts]
    waits = [burst.ttft_s for burst in bursts if burst.ttft_s is not None]
    return Point(planned, statistics.median(rates), statistics.median(waits) if waits else 0.0)


def summary(swept: Swept) -> tuple[object, ...]:
    best, pick, tuned = swept.best, swept.report.plan.pick, swept.tuned
    return (
        swept.name, f"{swept.report.plan.goal.ttft_limit_s:g} s",
        f"batch {best.batch}: {best.rate:.1f} tok/s", _batch(pick),
        f"{swept.rate_at(pick) / best.rate:.3f}", _batch(tuned.best),
        f"{swept.rate_at(tuned.best) / best.rate:.3f}", len(tuned.runs), f"{tuned.seconds:.0f} s",
    )  # fmt: skip


def _batch(planned: PlannedLoad | None) -> str:
    return "none" if planned is None else f"batch {planned.load.window.batch_size}"


def details(swept: Swept) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for found in swept.points:
        speed = found.planned.speed
        rows.append(
            (
                swept.name, found.batch,
                f"{speed.total_tok_s.value:.1f}" if speed else "",
                f"{found.rate:.1f}",
                f"{found.rate / speed.total_tok_s.value:.3f}" if speed else "",
                f"{speed.ttft_loaded_s.value:.2f} s" if speed else "",
                f"{found.ttft_s:.2f} s" if found.ttft_s else "too late",
            )
        )  # fmt: skip
    return rows


def page(all_swept: Sequence[Swept], options: argparse.Namespace) -> str:
    goal = all_swept[0].report.plan.goal
    return "\n".join(
        [
            "# The pick against an exhaustive sweep\n",
            environment(),
            f"Prompts of {goal.prompt_tokens} tokens, batch-size of them at once; limits: last "
            f"first token {goal.ttft_limit_s:g} s, {goal.tok_s_floor:g} tokens/s per user; medians "
            f"of {options.repeats}. Goal: pick / best at least {GOAL_SHARE}.\n",
            table(HEADER, [summary(swept) for swept in all_swept]),
            "## Every batch size\n",
            table(SWEEP, [row for swept in all_swept for row in details(swept)]),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompt-tokens", default="256")
    parser.add_argument("--max-ttft", default="30")
    parser.add_argument("--min-tok-s", default="1")
    parser.add_argument("--ctx", default="2048")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    options = parser.parse_args()
    swept = [sweep(model, options) for model in options.models]
    publish(page(swept, options), options.out)
    shares = [one.rate_at(one.report.plan.pick) / one.best.rate for one in swept]
    return 0 if min(shares) >= GOAL_SHARE else 1


if __name__ == "__main__":
    raise SystemExit(main())
