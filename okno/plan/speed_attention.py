"""Time of attention over the KV cache, as llama.cpp spends it on a CPU.

With flash attention (ggml-cpu/ops.cpp, ggml_compute_forward_flash_attn_ext_f16) a single row splits
the cells among the threads. Up to 63 rows each row walks every cell and skips those of others; the
rows of one sequence see the same cells, which then lie in the caches.
From 64 rows on (f16 and f32 KV) it works in tiles of 64 rows by 64 cells, computes a tile whole
however few rows it has, and skips those in which no row sees a cell.

Without it (llama-graph.cpp, build_attn_mha) two products and a softmax go over all walked cells
for every row, whoever they belong to, at a fraction of the cost of a cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapreplace
from itertools import pairwise

from okno.core.calibration import AttentionCost, Curve
from okno.core.load import CELL_PAD
from okno.plan.speed_curve import at
from okno.plan.speed_work import AttentionLayers

TILE = 64
CHUNKS_PER_THREAD = 4


@dataclass(frozen=True, slots=True)
class Part:
    """`count` sequences alike in a step: `rows` rows each, `depth` cells each before."""

    count: int
    rows: int
    depth: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of a step, in their order, and the cells of the pool walked (the highest used one,
    padded)."""

    parts: tuple[Part, ...]
    n_rows: int
    walked: int


def batch_of(parts: Iterable[Part], parked_cells: int = 0) -> Batch:
    """A batch whose sequences, and parked cells beside them, fill the pool from its start."""
    kept = tuple(parts)
    rows = sum(part.count * part.rows for part in kept)
    used = rows + sum(part.count * part.depth for part in kept)
    return Batch(kept, rows, padded(used + parked_cells))


def with_filler(batch: Batch, rows: int) -> Batch:
    """`batch` and so many rows that see only their own cells."""
    if not rows:
        return batch
    return Batch((*batch.parts, Part(rows, 1, 0)), batch.n_rows + rows, batch.walked)


def split_cells(seen: int, walked: int, threads: int) -> int:
    """Cells that take as long as the busiest thread of a single row, which may have all `seen`."""
    return min(seen * threads, walked)


def padded(cells: int) -> int:
    return -(-cells // CELL_PAD) * CELL_PAD


@dataclass(frozen=True, slots=True)
class Attention:
    """Layers alike, with what they cost and the threads that was measured with. flash: with flash
    attention; False, where the costs know what it is without."""

    layers: AttentionLayers
    cost: AttentionCost
    threads: int
    flash: bool = True

    def seconds(self, batch: Batch) -> float:
        """Of all the layers in one step; nothing for a step without rows."""
        if not batch.n_rows:
            return 0.0
        layers, cost = self.layers, self.cost
        walked = _walked(batch, layers.window)
        if not self.flash and cost.plain is not None:
            cell_s = at(cost.plain, batch.n_rows) * batch.n_rows * walked
        elif batch.n_rows == 1:
            seen = _seen(batch, layers.window)
            full = split_cells(seen, walked, self.threads)
            cell_s = at(cost.alone, seen) * full + cost.skip_s * (walked - full)
        elif cost.tiled is not None and batch.n_rows >= TILE:
            cell_s = self._tiled_s(cost.tiled, batch, walked)
        else:
            seen = _seen(batch, layers.window)
            again, again_s = self._seen_again(batch)
            cell_s = at(cost.few, _held(batch, layers.window)) * (seen - again) + again_s
            cell_s += cost.skip_s * max(0, batch.n_rows * walked - seen)
            cell_s *= imbalance(batch.n_rows * layers.n_head, self.threads)
        return cell_s * layers.count * layers.n_head

    def _seen_again(self, batch: Batch) -> tuple[int, float]:
        """(cells that rows see after another of their sequence, seconds of these)."""
        curve, window = self.cost.again, self.layers.window
        cells, seconds = 0, 0.0
        for part in batch.parts:
            if curve is None or part.rows == 1:
                continue
            more = _seen_of(part, window) - part.count * _held_of(part, window)
            cells += more
            seconds += more * at(curve, _held_of(part, window))
        return cells, seconds

    def _tiled_s(self, tiled: Curve, batch: Batch, walked: int) -> float:
        rows = -(-batch.n_rows // TILE) * TILE
        worked = _tile_cells(batch, self.layers.window, walked)
        factor = fragmentation(batch.n_rows, self.layers.n_head, self.threads)
        skipped = max(0, rows * walked - worked)
        return factor * at(tiled, worked / rows) * worked + self.cost.skip_tile_s * skipped


def _walked(batch: Batch, window: int | None) -> int:
    if window is None:
        return batch.walked
    return min(batch.walked, padded(_held(batch, window)))


def _held(batch: Batch, window: int | None) -> int:
    """Different cells that the rows of a step see: what the caches have to hold."""
    return sum(part.count * _held_of(part, window) for part in batch.parts)


def _held_of(part: Part, window: int | None) -> int:
    """By one of its sequences."""
    return part.rows + (part.depth if window is None else min(part.depth, window - 1))


def _seen(batch: Batch, window: int | None) -> int:
    """Cells that rows see, summed over rows."""
    return sum(_seen_of(part, window) for part in batch.parts)


def _seen_of(part: Part, window: int | None) -> int:
    rows, depth = part.rows, part.depth
    growing = rows if window is None else min(max(window - depth, 0), rows)
    seen = growing * depth + growing * (growing + 1) // 2
    return part.count * (seen + (rows - growing) * (window or 0))


def _tile_cells(batch: Batch, window: int | None, walked: int) -> int:
    """Rows of tiles (64 each, however few are real) times the cells their KV tiles span. The cells
    of neighbours in a tile of rows lie side by side, so that they are rounded up together."""
    spans: Counter[int] = Counter()  # by tile of rows
    offset = 0
    for part in batch.parts:
        if part.rows == 1:
            span = _span_of(part, 0, 1, window)
            for low, high in pairwise(_tile_borders(offset, offset + part.count)):
                spans[low // TILE] += (high - low) * span
            offset += part.count
            continue
        for _ in range(part.count):
            for low, high in pairwise(_tile_borders(offset, offset + part.rows)):
                spans[low // TILE] += _span_of(part, low - offset, high - offset, window)
            offset += part.rows
    most = -(-walked // TILE)
    return TILE * TILE * sum(min(most, -(-span // TILE)) for span in spans.values())


def _tile_borders(begin: int, end: int) -> list[int]:
    """begin, the tile borders between, end."""
    return [begin, *range((begin // TILE + 1) * TILE, end, TILE), end]


def _span_of(part: Part, low: int, high: int, window: int | None) -> int:
    """Cells that the rows low..high of a sequence see together."""
    begin = max(0, part.depth + low - window) if window else 0
    return part.depth + high - begin


@lru_cache(maxsize=4096)
def fragmentation(rows: int, n_head: int, threads: int) -> float:
    """Time of tiles over that of whole heads shared evenly: a piece of work that ends within a
    head ends a tile, and some threads get more pieces than others."""
    total = rows * n_head
    pieces = [0, *_piece_ends(total, threads)]
    tiles = []
    for low, high in pairwise(pieces):
        borders = [low, *range((low // rows + 1) * rows, high, rows), high]
        tiles.append(sum(-(-(b - a) // TILE) for a, b in pairwise(borders)))
    return _makespan(tiles, threads) * threads / (n_head * -(-rows // TILE))


@lru_cache(maxsize=4096)
def imbalance(total: int, threads: int) -> float:
    """Time of `total` rows and heads over that of an even share for each thread."""
    sizes = [high - low for low, high in pairwise([0, *_piece_ends(total, threads)])]
    return _makespan(sizes, threads) * threads / total


def _piece_ends(total: int, threads: int) -> list[int]:
    """Where the pieces end that threads take one after the other: four for each thread."""
    chunk = -(-total // (CHUNKS_PER_THREAD * threads))
    if threads == 1 or -(-total // chunk) < threads:
        chunk = -(-total // threads)
    return [*range(chunk, total, chunk), total]


def _makespan(sizes: list[int], threads: int) -> int:
    """When the last thread is done, if each takes the next piece as soon as it is free."""
    busy = [0] * threads
    for size in sizes:
        heapreplace(busy, busy[0] + size)
    return max(busy)
