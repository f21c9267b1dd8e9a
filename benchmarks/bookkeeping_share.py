"""What part of a real step is not the model: scheduling, sampling, texts, events.

    python -m okno.bench.shapes llama-1b --type Q4_0 --out /tmp/shapes/llama-1b-Q4_0.gguf
    python benchmarks/bookkeeping_share.py /tmp/shapes/llama-1b-Q4_0.gguf

The real loop over the real engine, 64 live sequences, 1,000 waiting. Counted are the steps in which
all that are live decode; what is not inside llama_decode and llama_get_logits is ours. (The prefix
tree holds what has ended, at most 256 sequences: llama.cpp has no more. bookkeeping.py has 10,000.)
Goal: under 2 % of the step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
from bookkeeping import CLIENTS, KINDS, Watch, arrive, tasks, watched_loop

from okno.bench.report import environment, percentile, publish, table
from okno.core.request import Sampling
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import FromWorker, WorkerOptions, frame

CTX = 256
COUNTED = ("greedy", "temperature 1")
MODEL = ("llama_decode", "llama_get_logits")
HEADER = ("sampling", "steps", "whole step", "the model", "schedule", "sample", "update",
          "the rest", "ours", "share")  # fmt: skip


def timed(watch: Watch, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def measured(*arguments: Any) -> Any:
        with watch.part("model"):
            return call(*arguments)

    return measured


def measure(path: Path, sampling: Sampling, options: argparse.Namespace) -> Watch:
    """The steps in which all decode."""
    wanted = WorkerOptions(str(path), path.stem, batch_size=options.live, ctx=CTX)
    engine = LlamaCpp(wanted, lambda _done: None)
    watch = Watch()
    untimed = {name: getattr(lib, name) for name in MODEL}
    for name, call in untimed.items():
        setattr(lib, name, timed(watch, call))
    ended: list[str] = []

    def send(message: FromWorker) -> None:
        frame(message)
        ended.extend(one.id for one in getattr(message, "finished", ()))

    loop = watched_loop(engine, watch, send)  # type: ignore[arg-type]
    coming = tasks(sampling, engine.vocab)  # type: ignore[arg-type]
    arrive(loop, coming, options.live + options.waiting)
    while len(watch.steps) < options.steps:
        watch.now = {}
        with watch.part("whole"):
            loop.once()
        [record] = loop.meter.log.last(1)
        if record.decode_rows == record.rows == options.live:
            watch.end_step()
        arrive(loop, coming, len(ended))
        ended.clear()
    for name, call in untimed.items():
        setattr(lib, name, call)
    engine.close_context()
    return watch


def row(name: str, watch: Watch) -> list[str]:
    parts = ("schedule", "sample", "update")
    ours = [step["whole"] - step["model"] for step in watch.steps]
    rest = [mine - sum(step[part] for part in parts)
            for mine, step in zip(ours, watch.steps, strict=True)]  # fmt: skip
    shares = [mine / step["whole"] for mine, step in zip(ours, watch.steps, strict=True)]
    figures = [watch.median("whole"), watch.median("model"), *map(watch.median, parts)]
    figures += [percentile(rest, 50), percentile(ours, 50)]
    cells = [f"{1e3 * seconds:,.2f} ms" for seconds in figures]
    return [name, str(len(watch.steps)), *cells, f"{100 * percentile(shares, 50):.2f} %"]


def report(options: argparse.Namespace) -> str:
    rows = [row(name, measure(options.model, KINDS[name], options)) for name in COUNTED]
    return (
        "# What of a real step is bookkeeping\n\n"
        f"{options.model.stem}, {options.live} live sequences that decode, {options.waiting:,} "
        f"waiting of {CLIENTS} clients; medians over the steps. Goal: under 2 %.\n\n"
        + environment() + "\n" + table(HEADER, rows)
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--live", type=int, default=64)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    options = parser.parse_args()
    publish(report(options), options.out)


if __name__ == "__main__":
    main()
