"""What okno adds to a step: scheduling, sampling, texts and events, without any model.

    python benchmarks/bookkeeping.py --out docs/benchmarks/bookkeeping.md

The real loop over an engine that computes nothing: it hands out the same logits in every step. 64
sequences are live, 1,000 wait, and finished ones lie in the prefix cache. Answers end after 64 to
192 tokens, so every second or third step admits a new request, and for each that ends another one
arrives. A share of a step is meaningful only beside a model: `--step-ms` takes the milliseconds of
its step (okno plan, or measured). Goal: under 1 ms in all, and under 2 % of the step.

`--before FOLDER` measures another checkout in turn with this one, each repetition in a process of
its own; figures are medians over the repetitions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okno.bench.report import environment, percentile, publish, table
from okno.core.request import Prompt, Request, Sampling, Stop
from okno.engines.loop import EngineLoop
from okno.engines.protocol import FromWorker, WorkerOptions, frame
from okno.engines.sampling import Sampler
from okno.engines.sampling_batch import Answer, Ask, sample_all
from okno.engines.scripted import ScriptedEngine
from okno.engines.task import Task
from okno.engines.text import TextStream
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits, Sampled, Step

PROMPT_TOKENS = 32
PARKED_TOKENS = 24
SHARED_TOKENS = 8  # of a parked prompt, with a sixteenth of the others
LIVES = (64, 192)  # tokens of an answer, at least and at most
CLIENTS = 100
CTX = 4096
PARTS = ("schedule", "sample", "update")
KINDS = {
    "greedy": Sampling(temperature=0),
    "temperature 1": Sampling(),
    "0.7, top_k 20, top_p 0.8": Sampling(temperature=0.7, top_k=20, top_p=0.8),
    "0.6, top_p 0.9": Sampling(temperature=0.6, top_p=0.9),
    "temperature 1, penalties": Sampling(repetition_penalty=1.1, frequency_penalty=0.2),
}
HEADER = ("vocabulary", "sampling", "schedule", "sample", "update", "texts and events",
          "whole step", "mean", "p95")  # fmt: skip
HERE = Path(__file__).resolve().parent.parent

Logits = NDArray[np.float32]


@dataclass
class Watch:
    """Seconds per part, added up within a step."""

    now: dict[str, float] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.now[name] = self.now.get(name, 0.0) + time.perf_counter() - began

    def end_step(self) -> None:
        self.steps.append(self.now)
        self.now = {}

    def median(self, part: str) -> float:
        return percentile([step.get(part, 0.0) for step in self.steps], 50)


class WatchedScheduler(Scheduler):
    watch: Watch

    def schedule(self, *arguments: Any, **named: Any) -> Step:
        with self.watch.part("schedule"):
            return super().schedule(*arguments, **named)

    def update(self, *arguments: Any, **named: Any) -> Any:
        with self.watch.part("update"):
            return super().update(*arguments, **named)


class HollowVocabulary:
    """`n_tokens` tokens of a few letters each; nothing ends an answer."""

    end_tokens: frozenset[int] = frozenset()

    def __init__(self, n_tokens: int) -> None:
        self.n_tokens = n_tokens
        self.pieces = [f" w{token:x}".encode() for token in range(n_tokens)]
        self.special = [False] * n_tokens

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return list(text.encode())

    def label(self, token: int) -> bytes:
        return self.pieces[token]


class HollowEngine(ScriptedEngine):
    """Computes nothing: the first rows of `logits`, whatever is asked."""

    def __init__(self, limits: Limits, logits: Logits) -> None:
        super().__init__(
            WorkerOptions("", "hollow", "scripted", limits.batch_size, CTX, limits.pool_cells)
        )
        self.limits = limits
        self.vocab = HollowVocabulary(logits.shape[1])  # type: ignore[assignment]
        self._logits = logits

    def execute(self, step: Step) -> Logits:
        return self._logits[: sum(span.logits for span in step.spans)]


def word_like(random: np.random.Generator, rows: int, n_vocab: int) -> Logits:
    """Logits as a language model's: a broad bulk and a few likely words."""
    logits = (random.standard_normal((rows, n_vocab), np.float32) * np.float32(2)).astype("f4")
    for row in logits:
        likely = random.choice(n_vocab, 50, replace=False)
        row[likely] = 16 - 1.5 * np.log(np.arange(1, 51))
    return logits


def park(scheduler: Scheduler, count: int, n_vocab: int) -> None:
    """`count` finished sequences in the prefix cache."""
    random = np.random.default_rng(1)
    beginnings = random.integers(0, n_vocab, (16, SHARED_TOKENS))
    for first in range(0, count, scheduler.limits.batch_size):
        for number in range(first, min(count, first + scheduler.limits.batch_size)):
            own = random.integers(0, n_vocab, PARKED_TOKENS - SHARED_TOKENS)
            prompt = [*beginnings[number % 16].tolist(), *own.tolist()]
            scheduler.add(Sequence(f"p{number}", prompt, max_tokens=PARKED_TOKENS + 1))
        while scheduler.live or len(scheduler.waiting):
            step = scheduler.schedule(1 << 20)
            done = Sampled((7,), ended=True)
            scheduler.update(step, {span.id: done for span in step.spans if span.logits})


def tasks(sampling: Sampling, vocab: HollowVocabulary) -> Iterator[Task]:
    """Requests of `CLIENTS` clients with prompts of their own, without end."""
    random = np.random.default_rng(2)
    for number in count():
        id, client = f"r{number}", f"c{number % CLIENTS}"
        prompt = random.integers(0, vocab.n_tokens, PROMPT_TOKENS).tolist()
        request = Request(id, Prompt(tokens=tuple(prompt)), sampling, Stop(), client=client)
        length = PROMPT_TOKENS + int(random.integers(*LIVES))
        yield Task(
            request,
            Sequence(id, prompt, max_tokens=length, client=client),
            Sampler(sampling, seed=number, n_vocab=vocab.n_tokens, prompt=prompt),
            TextStream(),
            vocab,
        )


def watched_loop(
    engine: HollowEngine, watch: Watch, send: Callable[[FromWorker], None]
) -> EngineLoop:
    loop = EngineLoop(engine, send, time.monotonic)
    loop.scheduler = WatchedScheduler(engine.limits)
    loop.scheduler.watch = watch

    def sample(logits: Logits, asks: Rows[Ask]) -> list[Answer]:
        with watch.part("sample"):
            return sample_all(logits, asks)

    loop.sample = sample
    return loop


def measure(sampling: Sampling, n_vocab: int, options: argparse.Namespace) -> Watch:
    """Steps of the loop with everything alive and waiting."""
    cells = options.live * (PROMPT_TOKENS + LIVES[1]) + options.parked * (PARKED_TOKENS + 1)
    limits = Limits(options.live, options.live + options.parked, cells)
    logits = word_like(np.random.default_rng(0), options.live, n_vocab)
    engine = HollowEngine(limits, logits)
    watch = Watch()
    ended: list[str] = []

    def send(message: FromWorker) -> None:
        frame(message)
        ended.extend(one.id for one in getattr(message, "finished", ()))

    loop = watched_loop(engine, watch, send)
    park(loop.scheduler, options.parked, n_vocab)
    coming = tasks(sampling, engine.vocab)  # type: ignore[arg-type]
    arrive(loop, coming, options.live + options.waiting)
    for number in range(options.warm_up + options.steps):
        if number == options.warm_up:
            watch.now, watch.steps = {}, []
        with watch.part("whole"):
            loop.once()
        watch.end_step()
        arrive(loop, coming, len(ended))
        ended.clear()
    assert len(loop.scheduler.live) == options.live, "all slots are busy to the end"
    return watch


def arrive(loop: EngineLoop, coming: Iterator[Task], count: int) -> None:
    for task in islice(coming, count):
        loop.arrivals.begin(task.id)
        loop.inbox.put(task)


def figures(options: argparse.Namespace) -> list[dict[str, float]]:
    """For each vocabulary and kind: median seconds of each part, of the rest and of the whole."""
    found = []
    for n_vocab in options.vocab:
        for sampling in KINDS.values():
            watch = measure(sampling, n_vocab, options)
            whole = [step["whole"] for step in watch.steps]
            rest = [s["whole"] - sum(s.get(p, 0.0) for p in PARTS) for s in watch.steps]
            figure = {part: watch.median(part) for part in PARTS}
            figure |= {"rest": percentile(rest, 50), "whole": percentile(whole, 50)}
            found.append(figure | {"mean": statistics.mean(whole), "p95": percentile(whole, 95)})
    return found


def in_child(checkout: Path) -> list[dict[str, float]]:
    """`figures` of the okno in `checkout`, by this script, in a process of its own."""
    python_path = os.pathsep.join([str(checkout.resolve()), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--json"]
    answer = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": python_path}, stdout=subprocess.PIPE, check=True
    )
    found: list[dict[str, float]] = json.loads(answer.stdout)
    return found


def report(options: argparse.Namespace) -> str:
    sides = {"now": HERE} if options.before is None else {"before": options.before, "now": HERE}
    runs: dict[str, list[list[dict[str, float]]]] = {side: [] for side in sides}
    for _ in range(options.repetitions):
        for side, checkout in sides.items():
            runs[side].append(in_child(checkout))
    rows = []
    for place, (n_vocab, kind) in enumerate((n, kind) for n in options.vocab for kind in KINDS):
        for side, found in runs.items():
            name = kind if len(sides) == 1 else f"{kind}, {side}"
            rows.append(row(n_vocab, name, [run[place] for run in found], options.step_ms))
    return (
        "# Bookkeeping of a step\n\n"
        f"{options.live} live sequences, {options.waiting:,} waiting, {options.parked:,} parked, "
        f"one more arrives for each that ends; medians of {options.steps} steps of the loop over "
        f"an engine that computes nothing, and of {options.repetitions} repetitions. Logits as a "
        "language model's (a broad bulk, 50 likely words). Goal: under 1 ms, under 2 % of a step."
        "\n\n" + environment() + "\n" + table(header(options), rows)
    )


def header(options: argparse.Namespace) -> tuple[str, ...]:
    return HEADER if options.step_ms is None else (*HEADER, f"of a {options.step_ms:g} ms step")


def row(n_vocab: int, name: str, runs: Rows[dict[str, float]], step_ms: float | None) -> list[str]:
    middle = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
    share = middle["mean"] / (middle["mean"] + (step_ms or 1) / 1e3)
    shares = [] if step_ms is None else [f"{100 * share:.2f} %"]
    return [f"{n_vocab:,}", name, *(f"{1e6 * s:,.0f} us" for s in middle.values()), *shares]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--live", type=int, default=64)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--parked", type=int, default=10_000, help="finished sequences")
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 151_936])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--before", type=Path, default=None, help="checkout to compare with")
    parser.add_argument("--step-ms", type=float, default=None, help="a model's step of --live rows")
    parser.add_argument("--json", action="store_true", help="the figures alone, once")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(figures(options)))
    else:
        publish(report(options), options.out)


if __name__ == "__main__":
    main()
