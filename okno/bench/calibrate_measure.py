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
from okno.core.request import Sampling
from okno.core.window import KVType
from okno.engines.sampling import Sampler
from okno.schedule.scheduler import Limits, Scheduler
from okno.schedule.sequence import Sequence

# 45 M weights: 25 MB of Q4_0. One layer computes all rows, because all have logits.
WIDE = Block("Q4_0", 1, n_embd=2048, n_ff=6144, n_head=8, n_head_kv=4, head_dim=128)
# Matrices with few inputs: 38 M weights.
SLIM = Block("Q4_0", 6, n_embd=768, n_ff=2048, n_head=6, n_head_kv=2, head_dim=128)
NARROW = (
    Block("Q4_0", 1, n_embd=256, n_ff=768, n_head=4, n_head_kv=2, head_dim=64),
    Block("Q4_0", 12, n_embd=256, n_ff=768, n_head=4, n_head_kv=2, head_dim=64),
    Block("Q4_0", 12, n_embd=512, n_ff=1536, n_head=8, n_head_kv=2, head_dim=64),
)
MIXTURE = Block("Q4_0", 1, n_embd=1024, n_ff=512, n_head=8, n_head_kv=4, head_dim=64,
                n_expert=16, n_expert_used=4)  # fmt: skip
BIG_LAYERS = 8  # of F16: 0.7 GB
TYPES = ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "Q5_K", "F16", "IQ4_NL", "Q5_0", "BF16")
EXPERT_TYPES = ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "MXFP4")
FEW_ROWS = tuple(range(1, 21))
MANY_ROWS = (24, 32, 48, 64, 96, 128, 192, 256, 512)
SLIM_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 256)
SLIM_EVERY = 2
NARROW_ROWS = (1, 4, 16, 64, 256)
MIXTURE_ROWS = (1, 8, 32)
DEPTHS = (512, 2048, 8192)
TILED_DEPTHS = (512, 2048)
FEW_DEPTHS = (512, 2048)
TILE = 64
FEW = 4
MANY = 16
ATTENTION_LAYERS, ATTENTION_HEADS, ATTENTION_KV_HEADS = 2, 32, 8
HEADS: dict[KVType, tuple[int, ...]] = {"f16": (64, 128, 96, 256), "q8_0": (64, 128),
                                        "q4_0": (64, 128)}  # fmt: skip
VOCABULARIES = (32_000, 152_000)
WARM_CALLS = 2
LEAST_ROUNDS = 2
MANY_EVERY = 3
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
        kv_type: KVType = "f16",
    ) -> BlockEngine:  # fmt: skip
        """The block, written, loaded and removed from the disk again."""
        path = self.folder / "block.gguf"
        write_block(block, path)
        opened = open_block(path, self.threads, cells=cells, n_seq=n_seq, kv_type=kv_type)
        engine = stack.enter_context(opened)
        path.unlink()
        return engine


Products = dict[str, dict[str, Samples]]


def measure_products(bench: Bench, types: Iterable[str]) -> Products:
    """Steps of WIDE and SLIM (`wide`, `slim`) in each type against rows, at least up to MUST_ROWS
    once. The many-row steps take longest and vary least: only every third round has them. The
    types take turns, so that each finds the caches full of the others' weights, as in a model that
    is larger than they are."""
    kinds = tuple(types)
    with ExitStack() as stack:
        wide, slim = (
            {t: bench.open(stack, replace(block, type=t), cells=512) for t in kinds}
            for block in (WIDE, SLIM)
        )
        found: Products = {name: {t: {} for t in kinds} for name in ("wide", "slim")}
        _warm([*wide.values(), *slim.values()])
        for number in itertools.count():
            for count in FEW_ROWS + (MANY_ROWS if number % MANY_EVERY == 0 else ()):
                if bench.over() and (number or count > MUST_ROWS):
                    return found
                for type in kinds:
                    _sample(wide[type], found["wide"][type], count)
                    if count in SLIM_ROWS and number % SLIM_EVERY == 0:
                        _sample(slim[type], found["slim"][type], count)
    raise AssertionError("unreachable")


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
    """(bytes of weights, seconds of steps of one row): F16, more than any cache of a processor
    with as many threads holds."""
    block = replace(WIDE, type="F16", n_layer=n_layer)
    with ExitStack() as stack:
        engine = bench.open(stack, block, cells=FILL_CELLS)
        [samples] = _rounds(bench, [engine], (1,) * 5)
    return 2.0 * block.n_weights, samples[1]


@dataclass(frozen=True, slots=True)
class AttentionSamples:
    """Differences to the same step without cells, in seconds, per row, head and cell. By cells that
    each row sees; few: by cells that all rows together see, those of neighbours skipped."""

    alone: dict[int, list[float]]
    few: dict[int, list[float]]
    tiled: dict[int, list[float]]
    skip: list[float]
    skip_tile: list[float]


def measure_attention(bench: Bench, kv_type: KVType, head_dim: int) -> AttentionSamples:
    """Steps of a block that is nearly all attention. Its keys and values are as many, and lie as
    far apart, as those of common models: what attention costs depends on which cache they fit."""
    block = Block("F16", ATTENTION_LAYERS, n_embd=128, n_ff=128, n_head=ATTENTION_HEADS,
                  n_head_kv=ATTENTION_KV_HEADS, head_dim=head_dim)  # fmt: skip
    heads = ATTENTION_HEADS * ATTENTION_LAYERS
    found = AttentionSamples({}, {}, {}, [], [])
    cells = max(MANY * FEW_DEPTHS[-1], DEPTHS[-1]) + 3 * FILL_CELLS
    with ExitStack() as stack:
        engine = bench.open(stack, block, cells=cells, n_seq=MANY + 2, kv_type=kv_type)
        _warm([engine])
        base = {n: _base(engine, n) for n in (1, FEW, MANY, TILE)}
        filled = 0
        for depth in DEPTHS:
            engine.fill(0, depth - filled, MANY + 1)
            for _ in range(3):
                _attention_alone(engine, found, depth, base, heads)
            if kv_type == "f16" and depth in TILED_DEPTHS:
                _attention_tiled(engine, found, depth, base[TILE], heads)
            filled = depth
        _attention_few(engine, found, base, heads)
    return found


def _base(engine: BlockEngine, rows: int) -> float:
    return min(engine.step_s([Rows(MANY, rows, 0)]) for _ in range(5))


def _attention_alone(
    engine: BlockEngine, found: AttentionSamples, depth: int, base: dict[int, float], heads: int
) -> None:
    pairs = heads * depth
    seconds = engine.step_s([Rows(0, 1, FILL_CELLS)])
    found.alone.setdefault(depth, []).append((seconds - base[1]) / pairs)
    if depth == DEPTHS[-1]:
        skipped = engine.step_s([Rows(MANY, FEW, 0)])
        found.skip.append((skipped - base[FEW]) / pairs / FEW)


def _attention_tiled(
    engine: BlockEngine, found: AttentionSamples, depth: int, base_s: float, heads: int
) -> None:
    pairs = heads * depth * TILE
    for _ in range(2):
        seconds = engine.step_s([Rows(0, TILE, FILL_CELLS)])
        found.tiled.setdefault(depth, []).append((seconds - base_s) / pairs)
        skipped = engine.step_s([Rows(MANY, TILE, 0)])
        found.skip_tile.append((skipped - base_s) / pairs)


def _attention_few(
    engine: BlockEngine, found: AttentionSamples, base: dict[int, float], heads: int
) -> None:
    """Sequences decode, each over cells of its own, and skip those of the others."""
    engine.forget()
    filled = [0] * MANY
    for count, depth in [*((FEW, depth) for depth in FEW_DEPTHS), (MANY, FEW_DEPTHS[-1])]:
        for seq in range(count):
            if filled[seq] < depth:
                engine.fill(seq, depth - filled[seq], MANY + 1)
                filled[seq] = depth
        for _ in range(3):
            _few(engine, found, count, depth, base[count], heads)


def _few(
    engine: BlockEngine, found: AttentionSamples, count: int, depth: int, base_s: float, heads: int
) -> None:
    skip_s = float(np.median(found.skip))
    seconds = engine.step_s([Rows(seq, 1, FILL_CELLS) for seq in range(count)]) - base_s
    own = seconds / (count * heads * depth) - (count - 1) * skip_s
    found.few.setdefault(count * depth, []).append(own)


def measure_sampling(rounds: int = 40) -> dict[int, list[float]]:
    """Seconds to choose a token among so many, with the default settings."""
    samples: dict[int, list[float]] = {n: [] for n in VOCABULARIES}
    random = np.random.default_rng(0)
    made = [(n, Sampler(Sampling(), seed=1, n_vocab=n), _logits(random, n)) for n in VOCABULARIES]
    for _ in range(rounds):
        for n_vocab, sampler, logits in made:
            began = time.perf_counter()
            sampler.accept(sampler.sample(logits).token)
            samples[n_vocab].append(time.perf_counter() - began)
    return samples


def _logits(
    random: np.random.Generator, n_vocab: int
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return random.standard_normal(n_vocab, np.float32) * np.float32(3)


def measure_scheduling(rounds: int = 40, batch: int = 8) -> list[float]:
    """Seconds that scheduling takes per sequence and step."""
    scheduler = Scheduler(Limits(batch, batch, 4096))
    for number in range(batch):
        scheduler.add(Sequence(str(number), range(number, number + 9), max_tokens=500))
    samples = []
    for _ in range(rounds):
        began = time.perf_counter()
        step = scheduler.schedule(256)
        scheduler.update(step, {s.id: 7 for s in step.spans if s.wants_logits})
        samples.append((time.perf_counter() - began) / batch)
    return samples


def _rounds(bench: Bench, engines: list[BlockEngine], rows: Iterable[int]) -> list[Samples]:
    counts = tuple(rows)
    samples: list[Samples] = [{} for _ in engines]
    _warm(engines)
    number = 0
    while number < LEAST_ROUNDS or not bench.over():
        for count in counts:
            for engine, found in zip(engines, samples, strict=True):
                _sample(engine, found, count)
        number += 1
    return samples


def _sample(engine: BlockEngine, samples: Samples, rows: int) -> None:
    samples.setdefault(rows, []).append(engine.step_s([Rows(0, rows, 0)]))


def _warm(engines: Iterable[BlockEngine]) -> None:
    for engine in engines:
        for _ in range(WARM_CALLS):
            engine.step_s([Rows(0, 4, 0)])
