"""What a live resize costs: the window widened and narrowed again under streams that decode.

    python benchmarks/resize.py /tmp/shapes/llama-1b-Q4_0.gguf --out docs/benchmarks/resize.md

The same requests run twice on the real engine, greedily, in the same steps: once undisturbed, once
with --ctx widened to --wide and narrowed again as soon as each resize is prepared (by a thread
beside the steps, as in a worker). Goal: texts and all logits equal, pauses under a second, the
weights not read again. --staged frees the old context first, as when both do not fit.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import numpy as np
import psutil

from okno.bench.rawloop import prompt_of
from okno.bench.report import environment, publish, table
from okno.core.window import WindowChange
from okno.engines import llama_resize
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import ResizeCounts, WorkerOptions
from okno.engines.resizing import Prepared, carry_out
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Sampled

GOAL_S = 1.0
PIECE_ROWS = 256
HEADER = ("resize", "pause s", "longest gap between tokens s", "prepared in s", "moved",
          "MiB copied", "staged")  # fmt: skip


@dataclass(slots=True)
class Preparation:
    """One resize on its way, prepared in a thread."""

    engine: LlamaCpp
    ctx: int
    used_cells: int
    prepared: Prepared | None = None
    error: BaseException | None = None
    began_s: float = field(default_factory=time.perf_counter)
    took_s: float = 0.0

    def start(self) -> Preparation:
        self.thread = Thread(target=self._prepare)
        self.thread.start()
        return self

    thread: Thread = field(init=False)

    def _prepare(self) -> None:
        try:
            prepared = self.engine.prepare_resize(WindowChange(ctx=self.ctx))
            prepared.open(self.used_cells)
            self.prepared = prepared
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.error = error
        self.took_s = time.perf_counter() - self.began_s


class Streams:
    """Requests that decode on `engine` until each has its tokens."""

    def __init__(self, engine: LlamaCpp, options: argparse.Namespace) -> None:
        self.engine = engine
        self.scheduler = Scheduler(engine.limits)
        self.texts: dict[str, list[int]] = {}
        self.digest = hashlib.sha256()
        self.gaps_s: list[float] = []
        self._last_s = time.perf_counter()
        for k in range(options.streams):
            prompt = prompt_of(options.prompt_tokens, engine.vocab.n_tokens, seed=k)
            self.texts[f"r{k}"] = []
            limit = len(prompt) + options.tokens
            self.scheduler.add(Sequence(f"r{k}", prompt, max_tokens=limit))

    @property
    def running(self) -> bool:
        return bool(self.scheduler.live or len(self.scheduler.waiting))

    @property
    def decoding(self) -> bool:
        return self.running and all(s.decoding for s in self.scheduler.live.values())

    def step(self) -> None:
        step = self.scheduler.schedule(PIECE_ROWS)
        logits = self.engine.execute(step)
        self.digest.update(logits.tobytes())
        wanting = [span for span in step.spans if span.logits]
        sampled = {
            span.id: self._taken(span.id, row) for span, row in zip(wanting, logits, strict=True)
        }
        self.scheduler.update(step, sampled)
        now_s = time.perf_counter()
        self.gaps_s.append(now_s - self._last_s)
        self._last_s = now_s

    def _taken(self, id: str, row: Rows[float]) -> Sampled:
        sequence, token = self.scheduler.live[id], int(np.argmax(row))
        self.texts[id].append(token)
        return Sampled((token,), ended=len(sequence.known) + 1 >= sequence.max_tokens)


@dataclass(frozen=True, slots=True)
class Done:
    """One resize: what it did, how long its preparation took, the gap between tokens around it."""

    name: str
    counts: ResizeCounts
    prepared_s: float
    gap_s: float


def resized(streams: Streams, sizes: Rows[int]) -> list[Done]:
    """Step to the end, with the ctx of `sizes` one after the other."""
    done: list[Done] = []
    waiting = list(sizes)
    while not streams.decoding:
        streams.step()
    while waiting and streams.running:
        used = streams.scheduler.pool.used
        preparation = Preparation(streams.engine, waiting.pop(0), used).start()
        while preparation.thread.is_alive() and streams.running:
            streams.step()
        done.append(_switched(streams, preparation))
    while streams.running:
        streams.step()
    return done


def _switched(streams: Streams, preparation: Preparation) -> Done:
    preparation.thread.join()
    if preparation.error is not None:
        raise preparation.error
    prepared, before = preparation.prepared, streams.engine.window.ctx
    assert prepared is not None
    try:
        counts = carry_out(prepared, streams.scheduler, time.perf_counter)
        streams.step()
    finally:
        prepared.release()
    name = f"{before:,} to {preparation.ctx:,}"
    return Done(name, counts, preparation.took_s, streams.gaps_s[-1])


def opened(options: argparse.Namespace) -> LlamaCpp:
    worker = WorkerOptions(
        model_path=str(options.model), name=options.model.stem, batch_size=options.streams,
        ctx=options.ctx, threads=options.threads,
    )  # fmt: skip
    return LlamaCpp(worker, lambda _fraction: None)


def report(options: argparse.Namespace) -> str:
    alone = Streams(opened(options), options)
    resized(alone, ())
    engine = opened(options)
    streams, process = Streams(engine, options), psutil.Process()
    read_before = process.io_counters().read_chars
    done = resized(streams, (options.wide, options.ctx))
    read_mib = (process.io_counters().read_chars - read_before) / 2**20
    if len(done) < 2:
        raise SystemExit("The answers ended before the second resize; give more --tokens.")
    rows = [
        (one.name, f"{one.counts.pause_s:.3f}", f"{one.gap_s:.3f}", f"{one.prepared_s:.1f}",
         str(one.counts.moved), f"{one.counts.state_bytes / 2**20:,.0f}", str(one.counts.staged))
        for one in done
    ]  # fmt: skip
    same = sum(streams.texts[id] == text for id, text in alone.texts.items())
    logits = "equal bit for bit" if alone.digest.digest() == streams.digest.digest() else "differ"
    usual_s = float(np.median(alone.gaps_s))
    lines = [
        table(HEADER, rows),
        f"Texts equal to those without resize: {same} of {len(alone.texts)}; all logits {logits}.",
        f"A step without resize takes {usual_s:.3f} s (median), at most {max(alone.gaps_s):.3f} s.",
        f"Bytes read by the process during both resizes: {read_mib:,.1f} MiB, of a model of "
        f"{engine.facts.size_bytes / 2**20:,.0f} MiB.",
    ]
    return "\n\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--wide", type=int, default=16_384)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--staged", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.staged:
        llama_resize.fits_beside = lambda new, old: False
    publish(f"# Live resize\n\n{environment()}\n{report(options)}\n", options.out)


if __name__ == "__main__":
    main()
