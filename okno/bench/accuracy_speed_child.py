"""The process that measures one model: `python -m okno.bench.accuracy_speed_child MODEL JOB`.

JOB is a Job as JSON. Prints one JSON object per measured case: a Decode or a First. Decode steps
run through the low-level engine, with caches filled by restored states, and the default sampler;
first tokens through okno's own engine loop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from okno.bench.calibrate_engine import FILL_CELLS, BlockEngine, Rows, open_block
from okno.core.load import FlashAttention
from okno.core.request import Prompt, Request, Sampling, Stop
from okno.core.window import KVType
from okno.engines.llamacpp import LlamaCpp
from okno.engines.loop import EngineLoop
from okno.engines.protocol import Events, FromWorker, WorkerOptions
from okno.engines.sampling import SampledToken, Sampler
from okno.engines.sampling_batch import Ask, sample_all
from okno.engines.task import Task
from okno.engines.text import TextStream
from okno.engines.worker import end_with_parent
from okno.schedule.sequence import Sequence
from okno.schedule.step import Truncate

WARM_STEPS = 2
NEW_TOKENS = 24


class Job(msgspec.Struct, frozen=True):
    """fills: multiples of 256. prompts: (requests at once, tokens each). repeats: of a decode
    step. filler: rows that nobody needs in a step in which (batch, fill) decode, as the predictions
    have them. calibration: as a worker gets it."""

    threads: int
    batches: tuple[int, ...]
    fills: tuple[int, ...]
    prompts: tuple[tuple[int, int], ...]
    repeats: int = 5
    most_cells: int = 65_536
    kv_type: KVType = "f16"
    flash: FlashAttention = "on"
    filler: tuple[tuple[int, int, int], ...] = ()
    calibration: dict[str, object] | None = None


class Decode(msgspec.Struct, tag="decode"):
    """Seconds of steps in which `batch` sequences of `fill` tokens decode, sampling included."""

    batch: int
    fill: int
    seconds: list[float]


class First(msgspec.Struct, tag="first"):
    """Seconds to the first token of each of `count` requests that came together."""

    count: int
    prompt: int
    seconds: list[float]


def measure(path: Path, job: Job) -> Iterator[Decode | First]:
    """All cases of the job, one after the other."""
    yield from _decodes(path, job)
    if job.prompts:
        yield from _firsts(path, job)


def _decodes(path: Path, job: Job) -> Iterator[Decode]:
    cases = [(b, f) for f in job.fills for b in job.batches if b * f <= job.most_cells]
    if not cases:
        return
    cells = max(b * f for b, f in cases) + 2 * FILL_CELLS
    n_seq = max(job.batches) + 1
    more = {(batch, fill): rows for batch, fill, rows in job.filler}
    opened = open_block(
        path, job.threads, cells=cells, n_seq=n_seq, kv_type=job.kv_type, flash=job.flash
    )
    with opened as engine:
        for fill in job.fills:
            engine.forget()
            filled = 0
            for batch in sorted(b for b, f in cases if f == fill):
                for seq in range(filled, batch):
                    engine.fill(seq, fill, n_seq - 1)
                filled = batch
                filler = Rows(n_seq - 1, more.get((batch, fill), 0), 0)
                yield Decode(batch, fill, _steps(engine, batch, job.repeats, filler))


def _steps(engine: BlockEngine, batch: int, repeats: int, filler: Rows) -> list[float]:
    rows = [Rows(seq, 1, FILL_CELLS) for seq in range(batch)]
    n_vocab = engine.logits(1).shape[1]
    samplers = [Sampler(Sampling(), seed=seq, n_vocab=n_vocab) for seq in range(batch)]
    seconds = []
    for _ in range(WARM_STEPS + repeats):
        taken = engine.step_s(rows, filler=filler)
        began = time.perf_counter()
        asks = [Ask(at, sampler) for at, sampler in enumerate(samplers)]
        for sampler, answer in zip(samplers, sample_all(engine.logits(batch), asks), strict=True):
            assert isinstance(answer, SampledToken)
            sampler.accept(answer.token)
        seconds.append(taken + time.perf_counter() - began)
    return seconds[WARM_STEPS:]


def _firsts(path: Path, job: Job) -> Iterator[First]:
    most = max(count for count, _ in job.prompts)
    longest = max(tokens for _, tokens in job.prompts)
    ctx = -(-(longest + NEW_TOKENS + 1) // FILL_CELLS) * FILL_CELLS
    options = WorkerOptions(
        model_path=str(path), name=path.stem, batch_size=most, ctx=ctx, threads=job.threads,
        kv_type=job.kv_type, flash_attention=job.flash, calibration=job.calibration,
    )  # fmt: skip
    engine = LlamaCpp(options, lambda _: None)
    for count, tokens in job.prompts:
        engine.execute_operations([Truncate(seq, 0) for seq in range(engine.limits.seq_ids)])
        yield First(count, tokens, _together(engine, count, tokens))


def _together(engine: LlamaCpp, count: int, tokens: int) -> list[float]:
    """Requests that are all there when the loop begins."""
    times: dict[str, float] = {}

    def take(message: FromWorker) -> None:
        if isinstance(message, Events):
            for delta in message.deltas:
                times.setdefault(delta.id, time.monotonic())

    loop = EngineLoop(engine, take, time.monotonic)
    began = time.monotonic()
    for number in range(count):
        loop.inbox.put(_task(engine, number, tokens))
    while len(times) < count:
        loop.once()
    return [times[str(number)] - began for number in range(count)]


def _task(engine: LlamaCpp, number: int, tokens: int) -> Task:
    source = np.random.default_rng(number)
    low = min(260, engine.vocab.n_tokens // 2)
    prompt = source.integers(low, engine.vocab.n_tokens, tokens).tolist()
    request = Request(str(number), Prompt(tokens=tuple(prompt)), Sampling(seed=number),
                      Stop(max_tokens=NEW_TOKENS * 1000, ignore_eos=True))  # fmt: skip
    most = min(engine.window.ctx, tokens + NEW_TOKENS)
    return Task(
        request,
        Sequence(str(number), prompt, max_tokens=most),
        Sampler(request.sampling, seed=number, n_vocab=engine.vocab.n_tokens,
                banned=engine.vocab.end_tokens),
        TextStream(),
        engine.vocab,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    """The process."""
    end_with_parent()
    job = msgspec.json.decode(arguments[1], type=Job)
    for result in measure(Path(arguments[0]), job):
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
