"""From samples to costs: a calibration out of what was measured.

The narrow blocks tell what a step, an operation and an activation cost (least squares over three
blocks and several row counts, together with the cost of a Q4_0 weight at these rows, which the wide
block ties down); what is left of the wide blocks' steps are products. Attention is measured first
and subtracted everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from okno.bench.calibrate_attention import AGAIN_ROWS, FEW, TILE, Shape, Swept
from okno.bench.calibrate_measure import MIXTURE, NARROW, NARROW_ROWS, Samples
from okno.bench.calibrate_models import Block
from okno.core.calibration import AttentionCost, Curve
from okno.plan.speed_attention import (
    Attention,
    Part,
    batch_of,
    fragmentation,
    imbalance,
    padded,
    split_cells,
)
from okno.plan.speed_attention_cost import cost_at
from okno.plan.speed_curve import at
from okno.plan.speed_work import OPS_PER_LAYER, AttentionLayers

TENSORS_PER_LAYER = 9
TENSORS_BESIDE = 2
NORMAL_90_PER_QUARTILE = 1.645 / 0.674  # of a normal distribution: 90 % over 50 % half width
LEAST_S = 1e-15
WIDE_SPREAD = 1.3
FEWEST_FOR_SPREAD, UNKNOWN_SPREAD = 4, 0.05


Measured = tuple[Block, Samples]


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured of attention, and the threads it was measured with."""

    attention: tuple[AttentionCost, ...]
    threads: int


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a step costs beside products and attention."""

    step_s: float
    op_s: float
    activation_s: float

    def of(self, block: Block, rows: int) -> float:
        """Seconds of a step of `block`."""
        fixed = self.step_s + ops_of(block) * self.op_s
        return fixed + rows * activations_of(block) * self.activation_s


def ops_of(block: Block) -> int:
    """As plan/speed_work.py counts them."""
    return TENSORS_BESIDE + block.n_layer * (TENSORS_PER_LAYER + OPS_PER_LAYER)


def activations_of(block: Block) -> int:
    """Values in and out of all matrices of a row."""
    per_layer = sum(
        (sizes[0] + sizes[1]) * (block.n_expert_used if len(sizes) == 3 else 1)
        for _, sizes in block.matrices
    )
    return block.n_layer * per_layer


def typical(values: Sequence[float]) -> float:
    """The lower quartile: a neighbour only ever makes a call slower. Where the values lie far
    apart, most were disturbed, and the least counts."""
    least, low, high = np.percentile(values, (0, 25, 75))
    return float(least if high > WIDE_SPREAD * low else low)


def spread(values: Sequence[float]) -> float:
    """Half the width of the middle half, relative to the median; of too few values a guess."""
    if len(values) < FEWEST_FOR_SPREAD:
        return UNKNOWN_SPREAD
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / 2 / middle) if middle > 0 else 0.0


def fit_overhead(narrow: Sequence[Samples], wide: Sequence[Measured], costs: Costs) -> Overhead:
    """Weighted least squares; unknowns step_s, op_s, activation_s and the seconds of a Q4_0 weight
    at each row count. wide: steps of Q4_0."""
    lines, wanted = [], []
    for block, samples in [*zip(NARROW, narrow, strict=True), *wide]:
        for place, rows in enumerate(NARROW_ROWS):
            if rows not in samples:
                continue
            seconds = typical(samples[rows]) - _attention_of(block, rows, costs)
            weights = np.zeros(len(NARROW_ROWS))
            weights[place] = block.n_weights / 1e9
            line = [1e-3, ops_of(block) * 1e-6, rows * activations_of(block) * 1e-9, *weights]
            lines.append(np.array(line) / seconds)
            wanted.append(1.0)
    found = _non_negative(np.array(lines), np.array(wanted))
    return Overhead(found[0] * 1e-3, found[1] * 1e-6, found[2] * 1e-9)


def _non_negative(
    lines: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    wanted: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> list[float]:
    """Least squares with unknowns of at least 0: those that come out negative are 0, the rest
    is solved again."""
    kept = list(range(lines.shape[1]))
    while True:
        solution = np.linalg.lstsq(lines[:, kept], wanted, rcond=None)[0]
        bad = [name for name, value in zip(kept, solution, strict=True) if value < 0]
        if not bad:
            found = [0.0] * lines.shape[1]
            for name, value in zip(kept, solution, strict=True):
                found[name] = float(value)
            return found
        kept = [name for name in kept if name not in bad]


def width_of(block: Block) -> float:
    """The harmonic mean of the inputs of its matrices, over weights."""
    weights = sum(sizes[0] * sizes[1] for _, sizes in block.matrices)
    return weights / sum(sizes[1] for _, sizes in block.matrices)


def fit_product(measured: Sequence[Measured], overhead: Overhead, costs: Costs) -> Curve:
    """Seconds per weight of one type against rows, out of blocks measured at different rows."""
    found = {n: (block, samples[n]) for block, samples in measured for n in samples}
    rows = tuple(sorted(found))
    seconds = []
    for n in rows:
        block, values = found[n]
        beside = overhead.of(block, n) + _attention_of(block, n, costs)
        seconds.append(max(LEAST_S, (typical(values) - beside) / block.n_weights))
    return Curve(rows, tuple(seconds), tuple(spread(found[n][1]) for n in rows))


def fit_experts(
    samples: Mapping[str, Samples], products: Mapping[str, Curve], overhead: Overhead, costs: Costs
) -> dict[str, Curve]:
    """Seconds per weight of one expert, against the rows routed to it (1 and 2 are enough: each
    further row costs the same)."""
    return {
        type: _expert_curve(found, products.get(type, products["Q4_0"]), overhead, costs)
        for type, found in samples.items()
    }


def _expert_curve(samples: Samples, dense: Curve, overhead: Overhead, costs: Costs) -> Curve:
    block = MIXTURE
    sizes = [int(np.prod(s)) for _, s in block.matrices]
    experts = sum(n for n, (_, s) in zip(sizes, block.matrices, strict=True) if len(s) == 3)
    beside = sum(sizes) - experts
    lines, wanted = [], []
    for rows, values in samples.items():
        seconds = typical(values) - overhead.of(block, rows)
        seconds -= _attention_of(block, rows, costs)
        seconds -= beside * at(dense, rows)
        touched = block.n_expert * (1 - (1 - block.n_expert_used / block.n_expert) ** rows)
        routed = rows * block.n_expert_used
        per_expert = experts / block.n_expert / 1e9
        lines.append(np.array([per_expert * touched, per_expert * (routed - touched)]))
        wanted.append(seconds)
    scale = np.maximum(np.abs(wanted), LEAST_S)
    found = _non_negative(np.array(lines) / scale[:, None], np.array(wanted) / scale)
    first, following = max(found[0] * 1e-9, LEAST_S), max(found[1] * 1e-9, LEAST_S)
    return Curve((1, 2), (first, first + following), (spread(samples[min(samples)]),) * 2)


def fit_attention(shape: Shape, swept: Swept, threads: int) -> AttentionCost:
    """The costs of one shape, for work that threads share evenly."""
    swept_bytes, samples = swept
    few = _cells_curve(samples.few, imbalance(FEW * shape.n_head, threads))
    uneven = imbalance(AGAIN_ROWS * shape.n_head, threads)
    pieces = fragmentation(TILE, shape.n_head, threads)
    return AttentionCost(
        kv_type=shape.kv_type,
        head_dim=shape.head_dim,
        alone=_cells_curve(_evenly_split(samples.alone, threads)),
        few=few,
        tiled=_cells_curve(samples.tiled, pieces) if samples.tiled else None,
        skip_s=max(0.0, typical(samples.skip)),
        skip_tile_s=max(0.0, typical(samples.skip_tile)) if samples.skip_tile else 0.0,
        n_head=shape.n_head,
        n_head_kv=shape.n_head_kv,
        swept_bytes=swept_bytes,
        plain=_cells_curve(samples.plain) if samples.plain else None,
        again=_again(samples.together, few, uneven) if samples.together else None,
    )


def _again(samples: Mapping[int, Sequence[float]], few: Curve, uneven: float) -> Curve:
    """Rows of one sequence without the first of them, which costs what one of few rows does."""
    others = AGAIN_ROWS - 1
    return _cells_curve(
        {
            n: [(s / uneven * AGAIN_ROWS - at(few, n)) / others for s in values]
            for n, values in samples.items()
        }
    )


def _evenly_split(samples: Mapping[int, Sequence[float]], threads: int) -> Samples:
    """The threads split the walked cells of a single row; one may get all that it sees."""
    return {
        n: [s * n / split_cells(n, padded(n + 1), threads) for s in values]
        for n, values in samples.items()
    }


def _cells_curve(samples: Mapping[int, Sequence[float]], uneven: float = 1.0) -> Curve:
    cells = tuple(sorted(samples))
    seconds = tuple(max(LEAST_S, typical(samples[n]) / uneven) for n in cells)
    return Curve(cells, seconds, tuple(abs(spread(samples[n])) for n in cells))


def fit_sampling(samples: Mapping[tuple[int, int], Sequence[float]]) -> tuple[float, float, float]:
    """Seconds of a step that samples, of each row of it, and of each entry of a row; samples: by
    rows and entries. Least squares of relative errors."""
    lines, wanted = [], []
    for (rows, n_vocab), values in samples.items():
        seconds = typical(values)
        lines.append([1e-6 / seconds, rows * 1e-6 / seconds, rows * n_vocab * 1e-9 / seconds])
        wanted.append(1.0)
    step, row, entry = _non_negative(np.array(lines), np.array(wanted))
    return step * 1e-6, row * 1e-6, entry * 1e-9


def noise_of(curves: Mapping[str, Curve]) -> float:
    """Half width of the 90 % interval of a step, relative: from the middle half of all."""
    spreads = [s for curve in curves.values() for s in curve.spread]
    return float(np.median(spreads)) * NORMAL_90_PER_QUARTILE


def _attention_of(block: Block, rows: int, costs: Costs) -> float:
    """Seconds of attention in a measured step: `rows` of one sequence without cells before."""
    layers = AttentionLayers(
        block.n_layer, block.n_head, block.n_head_kv, float(block.head_dim), None
    )
    cost = cost_at(costs.attention, "f16", layers, 0)
    return Attention(layers, cost, costs.threads).seconds(batch_of([Part(1, rows, 0)]))
