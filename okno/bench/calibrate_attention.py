"""The measurements of attention: steps over a filled KV cache, less the same without one.

Before each step the caches are swept with weights, as in a model, where those of a whole layer pass
between two attentions: a cache left from the step before made real models up to 40 % slower than
predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from okno.bench.calibrate_engine import FILL_CELLS, BlockEngine, Rows
from okno.bench.calibrate_measure import WIDE, Bench, warm
from okno.bench.calibrate_models import Block
from okno.core.window import KVType
from okno.plan.speed_types import bits_of

NEAR = replace(WIDE, type="Q8_0")  # 48 MB: what a small model has
FAR = replace(WIDE, type="F16", n_layer=8)  # 0.7 GB
HEAD_LAYERS = 32  # heads times layers of a block: what a step has to do
DEPTHS = (256, 1024, 4096, 8192)
TILED_DEPTHS = (256, 1024, 4096)
AGAIN_ROWS = 32  # of one sequence, below a tile
FEW, MANY = 4, 8
FEW_CASES = ((FEW, 256), (FEW, 1024), (FEW, 4096), (MANY, 4096), (MANY, 8192))
MOST_KV_HEADS = 8  # with more, the deepest case takes too much time and memory
TILE = 64
PLAIN_ROWS = (1, 2, 3, 4, 8, 16, 32, 48, 64)
PLAIN_ROWS_FAR = (1, 4, 16)
PLAIN_DEPTH = 2048
PLAIN_REPEATS = 5
BASE_REPEATS, ALONE_REPEATS, FEW_REPEATS, TILED_REPEATS = 5, 4, 3, 2
EMPTY, SPARE = MANY, MANY + 1  # sequences: one that has no cells, one that helps to fill others


@dataclass(frozen=True, slots=True)
class Shape:
    """What to measure: a KV type, a head size and the numbers of heads."""

    kv_type: KVType
    head_dim: int
    n_head: int
    n_head_kv: int

    @property
    def block(self) -> Block:
        """A model that is nearly all attention."""
        return Block("F16", HEAD_LAYERS // self.n_head, n_embd=128, n_ff=128, n_head=self.n_head,
                     n_head_kv=self.n_head_kv, head_dim=self.head_dim)  # fmt: skip

    @property
    def cases(self) -> tuple[tuple[int, int], ...]:
        """(sequences, depth of each)."""
        is_cheap = self.kv_type != "f16" and self.n_head_kv <= MOST_KV_HEADS
        return FEW_CASES if is_cheap else FEW_CASES[:-1]

    @property
    def cells(self) -> int:
        """Of the KV cache it is measured with."""
        return MANY * self.cases[-1][1] + 4 * FILL_CELLS

    @property
    def pool_bytes(self) -> int:
        """Of the KV cache, at f16."""
        return self.cells * self.block.n_layer * self.n_head_kv * self.head_dim * 2 * 2


# The shape of most models; the others have fewer queries per KV head, few KV heads, or one for
# each query head.
FIRST = (Shape("f16", 64, 32, 8), Shape("q8_0", 64, 32, 8), Shape("q4_0", 64, 32, 8))
# Also with the far sweeper; the rest in proportion.
FAR_SHAPES = (
    FIRST[0], FIRST[1], Shape("f16", 128, 32, 8), Shape("f16", 128, 16, 8), Shape("f16", 64, 8, 2),
    Shape("q8_0", 128, 32, 8),
)  # fmt: skip
# In the order of their worth, as far as time allows. q4_0 and rare head sizes in one shape only.
REST = (
    Shape("f16", 128, 32, 8),
    Shape("q8_0", 128, 32, 8),
    Shape("f16", 128, 16, 8),
    Shape("f16", 128, 32, 32),
    Shape("f16", 128, 8, 2),
    Shape("f16", 64, 8, 2),
    Shape("q4_0", 128, 32, 8),
    Shape("q8_0", 128, 32, 32),
    Shape("q8_0", 128, 8, 2),
    Shape("f16", 64, 16, 8),
    Shape("f16", 64, 32, 32),
    Shape("q8_0", 128, 16, 8),
    Shape("q8_0", 64, 8, 2),
    Shape("f16", 256, 32, 8),
    Shape("q8_0", 64, 32, 32),
    Shape("f16", 96, 32, 8),
)


@dataclass(frozen=True, slots=True)
class AttentionSamples:
    """Differences to the same step without cells, in seconds, per row, head and cell. By cells that
    each row sees; few: by cells that all rows together see, those of neighbours skipped. together:
    AGAIN_ROWS of one sequence. plain: without flash attention, by rows."""

    alone: dict[int, list[float]] = field(default_factory=dict)
    few: dict[int, list[float]] = field(default_factory=dict)
    tiled: dict[int, list[float]] = field(default_factory=dict)
    together: dict[int, list[float]] = field(default_factory=dict)
    skip: list[float] = field(default_factory=list)
    skip_tile: list[float] = field(default_factory=list)
    plain: dict[int, list[float]] = field(default_factory=dict)


Swept = tuple[int, AttentionSamples]  # bytes that pass between two attentions


@dataclass(frozen=True, slots=True)
class Sweeper:
    """A model whose step of one row passes so many bytes of weights through the caches."""

    engine: BlockEngine
    n_bytes: int

    def sweep(self) -> None:
        self.engine.step_s([Rows(0, 1, 0)])


def open_sweeper(bench: Bench, stack: ExitStack, block: Block) -> Sweeper:
    """`block`, ready to sweep."""
    engine = bench.open(stack, block, cells=FILL_CELLS)
    warm([engine])
    return Sweeper(engine, int(block.n_weights * bits_of(block.type) / 8))


def measure_attention(bench: Bench, shape: Shape, sweepers: Sequence[Sweeper]) -> list[Swept]:
    """Steps of one row, of several sequences, and (f16) of a tile of rows and without flash
    attention. The first sweeper is used for all of them, the others for what depends on the
    caches."""
    with ExitStack() as stack:
        engine = bench.open(
            stack, shape.block, cells=shape.cells, n_seq=SPARE + 1, kv_type=shape.kv_type
        )
        warm([engine])
        found = []
        for number, sweeper in enumerate(sweepers):
            engine.forget()
            samples = _Attention(engine, sweeper, shape).measure(all_rows=number == 0)
            found.append((sweeper.n_bytes, samples))
    if shape.kv_type == "f16":
        near_and_far = [samples for _, samples in found]
        _measure_plain(bench, shape, list(zip(sweepers, near_and_far, strict=True)))
    return found


def _measure_plain(
    bench: Bench, shape: Shape, wanted: Sequence[tuple[Sweeper, AttentionSamples]]
) -> None:
    """Steps without flash attention over PLAIN_DEPTH cells, less the same over as good as none."""
    heads = shape.n_head * shape.block.n_layer
    with ExitStack() as stack:
        engine = bench.open(
            stack, shape.block, cells=PLAIN_DEPTH + 2 * FILL_CELLS, n_seq=2, flash="off"
        )
        warm([engine])
        base: dict[tuple[int, int], float] = {}
        for depth in (0, PLAIN_DEPTH):
            engine.fill(0, depth, 1)
            for number, (sweeper, samples) in enumerate(wanted):
                for rows in PLAIN_ROWS_FAR if number else PLAIN_ROWS:
                    asked = [Rows(0, rows, min(depth, FILL_CELLS))]
                    taken = [_after(sweeper, engine, asked) for _ in range(PLAIN_REPEATS)]
                    if depth == 0:
                        base[number, rows] = float(np.percentile(taken, 25))
                        continue
                    pairs = heads * depth * rows
                    samples.plain[rows] = [(s - base[number, rows]) / pairs for s in taken]


def _after(sweeper: Sweeper, engine: BlockEngine, rows: Sequence[Rows]) -> float:
    sweeper.sweep()
    return engine.step_s(rows)


class _Attention:
    def __init__(self, engine: BlockEngine, sweeper: Sweeper, shape: Shape) -> None:
        self._engine, self._sweeper, self._shape = engine, sweeper, shape
        self._heads = shape.n_head * shape.block.n_layer
        self._found = AttentionSamples()
        self._base: dict[int, float] = {}

    def measure(self, *, all_rows: bool) -> AttentionSamples:
        """all_rows: also tiles of rows, which work out of the caches."""
        tiles = all_rows and self._shape.kv_type == "f16"
        self._base = {
            n: self._without_cells(n)
            for n in (
                1,
                FEW,
                MANY,
                *((AGAIN_ROWS,) if all_rows else ()),
                *((TILE,) if tiles else ()),
            )
        }
        filled = 0
        for depth in DEPTHS:
            self._engine.fill(0, depth - filled, SPARE)
            filled = depth
            self._alone(depth)
            if all_rows and depth in TILED_DEPTHS:
                self._of_one(AGAIN_ROWS, depth, self._found.together)
            if tiles and depth in TILED_DEPTHS:
                self._of_one(TILE, depth, self._found.tiled)
        self._skipped(filled, (FEW, TILE) if tiles else (FEW,))
        self._engine.forget()
        depths = [0] * MANY
        for count, depth in self._shape.cases:
            for seq in range(count):
                self._engine.fill(seq, depth - depths[seq], SPARE)
                depths[seq] = depth
            self._few(count, depth)
        return self._found

    def _step_s(self, rows: Sequence[Rows]) -> float:
        return _after(self._sweeper, self._engine, rows)

    def _without_cells(self, rows: int) -> float:
        taken = [self._step_s([Rows(EMPTY, rows, 0)]) for _ in range(BASE_REPEATS)]
        return float(np.percentile(taken, 25))

    def _alone(self, depth: int) -> None:
        for _ in range(ALONE_REPEATS):
            seconds = self._step_s([Rows(0, 1, FILL_CELLS)]) - self._base[1]
            self._found.alone.setdefault(depth, []).append(seconds / (self._heads * depth))

    def _of_one(self, rows: int, depth: int, found: dict[int, list[float]]) -> None:
        """So many rows of one sequence."""
        pairs = self._heads * depth * rows
        for _ in range(TILED_REPEATS):
            seconds = self._step_s([Rows(0, rows, FILL_CELLS)]) - self._base[rows]
            found.setdefault(depth, []).append(seconds / pairs)

    def _skipped(self, cells: int, counts: Sequence[int]) -> None:
        """Rows that walk the cells of others only."""
        for rows in counts:
            found = self._found.skip_tile if rows == TILE else self._found.skip
            for _ in range(FEW_REPEATS):
                seconds = self._step_s([Rows(EMPTY, rows, 0)]) - self._base[rows]
                found.append(seconds / (self._heads * cells * rows))

    def _few(self, count: int, depth: int) -> None:
        """Sequences decode, each over cells of its own, and skip those of the others."""
        skip_s = float(np.median(self._found.skip))
        for _ in range(FEW_REPEATS):
            seconds = self._step_s([Rows(seq, 1, FILL_CELLS) for seq in range(count)])
            own = (seconds - self._base[count]) / (count * self._heads * depth)
            self._found.few.setdefault(count * depth, []).append(own - (count - 1) * skip_s)
