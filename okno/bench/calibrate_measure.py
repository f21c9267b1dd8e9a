"""The measurements of a calibration, interleaved so that a noisy moment hurts all alike.

Each returns samples: seconds of single decode calls, by what was asked of the engine. The fits
(bench/calibrate_fit.py) take the lower quartile of each: a neighbour can only make a call slower.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from okno.bench.calibrate_engine import FILL_CELLS, BlockEngine, Rows, open_block
from okno.bench.calibrate_models import Block, write_block
from okno.core.load import FlashAttention
from okno.core.request import Sampling
from okno.core.window import KVType
from okno.engines.sampling import SampledToken, Sampler
from okno.engines.sampling_batch import Ask, sample_all
from okno.plan.speed_types import bits_of
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits, Sampled

# 45 M weights: 25 MB of Q4_0. One layer computes all rows, because all have logits.
WIDE = Block("Q4_0", 1, n_embd=2048, n_ff=6144, n_head=8, n_head_kv=4, head_dim=128)
# A step on weights that no cache holds starts slowly (0.3 to 0.6 ms measured): with few rows a
# layer alone takes a third too long.
DEEP_LAYERS = 4
DEEP_TYPES = ("Q4_0", "Q4_K", "Q6_K", "Q8_0")
DEEP_ROWS = (1, 2, 3, 4)
# Matrices with few inputs: 76 M weights.
SLIM = Block("Q4_0", 12, n_embd=768, n_ff=2048, n_head=6, n_head_kv=2, head_dim=128)
NARROW = (
    Block("Q4_0", 1, n_embd=256, n_ff=768, n_head=4, n_head_kv=2, head_dim=64),
    Block("Q4_0", 12, n_embd=256, n_ff=768, n_head=4, n_head_kv=2, head_dim=64),
    Block("Q4_0", 12, n_embd=512, n_ff=1536, n_head=8, n_head_kv=2, head_dim=64),
)
MIXTURE = Block("Q4_0", 1, n_embd=1024, n_ff=512, n_head=8, n_head_kv=4, head_dim=64,
                n_expert=16, n_expert_used=4)  # fmt: skip
BIG_TYPE, BIG_LAYERS = "Q8_0", 15  # 0.7 GB; F16 products reach a tenth less of the bandwidth
TYPES = ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "Q5_K", "F16", "IQ4_NL", "Q5_0", "BF16")
EXPERT_TYPES = ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "MXFP4")
FEW_ROWS = tuple(range(1, 25))
MANY_ROWS = (32, 33, 48, 64, 128, 256)
SLIM_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 32, 33, 48, 64)
SLIM_EVERY = 3
NARROW_ROWS = (1, 4, 16, 64, 256)
MIXTURE_ROWS = (1, 8, 32)
VOCABULARIES = (4_000, 32_000, 152_000)
SAMPLED_ROWS = (1, 4, 16)
WARM_CALLS = 2
LEAST_ROUNDS = 2
MANY_EVERY = 2
MUST_ROWS = 64

Samples = dict[int, list[float]]
Progress = Callable[[float], None]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how to measure. until: a moment of the clock after which no new round begins."""

    folder: Path
    threads: int
    until: float
    clock: Clock = time.monotonic

    def by(self, moment: float) -> Bench:
        """The same, ending sooner."""
        return replace(self, until=min(self.until, moment))

    def over(self) -> bool:
        return self.clock() >= self.until

    def open(
        self, stack: ExitStack, block: Block, *, cells: int, n_seq: int = 1,
        kv_type: KVType = "f16", flash: FlashAttention = "on",
    ) -> BlockEngine:  # fmt: skip
        """The block, written, loaded and removed from the disk again."""
        path = self.folder / "block.gguf"
        write_block(block, path)
        engine = stack.enter_context(
            open_block(path, self.threads, cells=cells, n_seq=n_seq, kv_type=kv_type, flash=flash)
        )
        path.unlink()
        return engine


Products = dict[str, dict[str, Samples]]


def measure_products(bench: Bench, types: Iterable[str], deep_layers: int) -> Products:
    """Steps of WIDE and SLIM (`wide`, `slim`) in each type against rows, at least up to MUST_ROWS
    once. The many-row steps take longest: only every second round has them. The
    types take turns, so that each finds the caches full of the others' weights, as in a model that
    is larger than they are. Steps of DEEP_ROWS go through deep_layers (`deep`)."""
    kinds = tuple(types)
    with ExitStack() as stack:
        wide, slim = (
            {t: bench.open(stack, replace(block, type=t), cells=FILL_CELLS) for t in kinds}
            for block in (WIDE, SLIM)
        )
        deep = {
            t: bench.open(stack, deep_block(t, deep_layers), cells=FILL_CELLS)
            for t in kinds
            if t in DEEP_TYPES
        }
        found: Products = {name: {t: {} for t in kinds} for name in ("wide", "slim", "deep")}
        warm([*wide.values(), *slim.values(), *deep.values()])
        for engine in wide.values():  # the first call of so many rows touches new memory
            engine.step_s([Rows(0, MANY_ROWS[-1], 0)])
        for number in itertools.count():
            for count in FEW_ROWS + (MANY_ROWS if number % MANY_EVERY == 0 else ()):
                if bench.over() and (number or count > MUST_ROWS):
                    return found
                for type in kinds:
                    if type in deep and count in DEEP_ROWS:
                        _sample(deep[type], found["deep"][type], count)
                    if type not in deep or count not in DEEP_ROWS:
                        _sample(wide[type], found["wide"][type], count)
                    if count in SLIM_ROWS and number % SLIM_EVERY == 0:
                        _sample(slim[type], found["slim"][type], count)
    raise AssertionError("unreachable")


def deep_block(type: str, n_layer: int) -> Block:
    """WIDE in so many layers."""
    return replace(WIDE, type=type, n_layer=n_layer)


def measure_narrow(bench: Bench) -> list[Samples]:
    """Steps of the NARROW blocks against rows, in which operations weigh more than products."""
    with ExitStack() as stack:
        engines = [bench.open(stack, block, cells=NARROW_ROWS[-1]) for block in NARROW]
        return _rounds(bench, engines, NARROW_ROWS)


def measure_experts(bench: Bench, types: Iterable[str]) -> dict[str, Samples]:
    """Steps of MIXTURE in each type against rows."""
    kinds = tuple(types)
    with ExitStack() as stack:
        engines = [
            bench.open(stack, replace(MIXTURE, type=type), cells=FILL_CELLS) for type in kinds
        ]
        return dict(zip(kinds, _rounds(bench, engines, MIXTURE_ROWS), strict=True))


def measure_bandwidth(bench: Bench, n_layer: int = BIG_LAYERS) -> tuple[float, list[float]]:
    """(bytes of weights, seconds of steps of one row): more than any cache of a processor with as
    many threads holds."""
    block = replace(WIDE, type=BIG_TYPE, n_layer=n_layer)
    with ExitStack() as stack:
        engine = bench.open(stack, block, cells=FILL_CELLS)
        [samples] = _rounds(bench, [engine], (1,) * 5)
    return block.n_weights * bits_of(BIG_TYPE) / 8, samples[1]


def measure_sampling(rounds: int = 40) -> dict[tuple[int, int], list[float]]:
    """Seconds to choose the tokens of (rows, entries of the vocabulary), as a step does: together,
    with the default settings."""
    random = np.random.default_rng(0)
    sizes = [(rows, n_vocab) for rows in SAMPLED_ROWS for n_vocab in VOCABULARIES]
    logits = {size: random.standard_normal(size, np.float32) * np.float32(3) for size in sizes}
    asks = {
        (rows, n_vocab): [
            Ask(at, Sampler(Sampling(), seed=at, n_vocab=n_vocab)) for at in range(rows)
        ]
        for rows, n_vocab in sizes
    }
    samples: dict[tuple[int, int], list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            began = time.perf_counter()
            answers = sample_all(logits[size], asks[size])
            for ask, answer in zip(asks[size], answers, strict=True):
                if isinstance(answer, SampledToken):  # never an error: these logits are numbers
                    ask.sampler.accept(answer.token)
            samples[size].append(time.perf_counter() - began)
    return samples


def measure_scheduling(rounds: int = 40, batch: int = 8) -> list[float]:
    """Seconds that scheduling takes per sequence and step."""
    scheduler = Scheduler(Limits(batch, batch, 4096))
    for number in range(batch):
        scheduler.add(Sequence(str(number), range(number, number + 9), max_tokens=500))
    samples = []
    for _ in range(rounds):
        began = time.perf_counter()
        step = scheduler.schedule(256)
        scheduler.update(step, {s.id: Sampled((7,)) for s in step.spans if s.logits})
        samples.append((time.perf_counter() - began) / batch)
    return samples


def _rounds(bench: Bench, engines: list[BlockEngine], rows: Iterable[int]) -> list[Samples]:
    counts = tuple(rows)
    samples: list[Samples] = [{} for _ in engines]
    warm(engines)
    number = 0
    while number < LEAST_ROUNDS or not bench.over():
        for count in counts:
            for engine, found in zip(engines, samples, strict=True):
                _sample(engine, found, count)
        number += 1
    return samples


def _sample(engine: BlockEngine, samples: Samples, rows: int) -> None:
    samples.setdefault(rows, []).append(engine.step_s([Rows(0, rows, 0)]))


def warm(engines: Iterable[BlockEngine]) -> None:
    for engine in engines:
        for _ in range(WARM_CALLS):
            engine.step_s([Rows(0, 4, 0)])
