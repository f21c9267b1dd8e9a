"""The attention cost of a shape, out of the shapes that calibration measured.

What a cell costs a head depends on how keys lie in memory: with many KV heads the next cell of one
head is far away, and with few queries per KV head each cell is fetched for few of them. One head
size is measured in several such shapes; the others in one, and take the proportions from it. And
what lies in a cache depends on how many weights have passed since the last step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from okno.core.calibration import AttentionCost, Curve
from okno.plan.speed_curve import at
from okno.plan.speed_work import AttentionLayers

Costs = Sequence[AttentionCost]
LEAST_SHARE = 0.2  # a line through two costs is not followed below this share of the first
# Two shapes differ by no more than this factor; a measurement that other programs disturbed may.
MOST_RATIO = 5.0


def cost_at(costs: Costs, kv: str, layers: AttentionLayers, swept_bytes: int) -> AttentionCost:
    """The costs of a KV type in such layers, when so many bytes of weights pass through the caches
    in a step. A KV type that was not measured costs what the most expensive one does."""
    least = min(cost.swept_bytes for cost in costs)
    near = [cost for cost in costs if cost.swept_bytes == least]
    far = [cost for cost in costs if cost.swept_bytes > least]
    found = _in_shape(near, kv, layers)
    if not far:
        return found
    most = far[0].swept_bytes
    part = math.log(max(1, swept_bytes) / least) / math.log(most / least)
    shapes = {_shape(cost) for cost in far}
    base = _in_shape([cost for cost in near if _shape(cost) in shapes], kv, layers)
    swept = _in_proportion(found, _in_shape(far, kv, layers), base)
    return _between(found, swept, min(max(part, 0.0), 1.0))


def _in_shape(costs: Costs, kv: str, layers: AttentionLayers) -> AttentionCost:
    """Head sizes between two measured lie on the line through them."""
    kv = _known(costs, kv)
    of_type = [cost for cost in costs if cost.kv_type == kv]
    dims = sorted({cost.head_dim for cost in of_type})
    low, high = dims[0], dims[-1]
    for a, b in pairwise(dims):
        if a <= layers.head_dim:
            low, high = a, b
    first = _shaped(costs, kv, low, layers)
    if low == high:
        return first
    part = (layers.head_dim - low) / (high - low)
    return _between(first, _shaped(costs, kv, high, layers), part)


def _known(costs: Costs, kv: str) -> str:
    if any(cost.kv_type == kv for cost in costs):
        return kv
    return max(costs, key=lambda cost: cost.few.seconds[-1] / cost.head_dim).kv_type


def _shaped(costs: Costs, kv: str, head_dim: int, layers: AttentionLayers) -> AttentionCost:
    """At a measured head size, for the layers' numbers of heads."""
    own = [cost for cost in costs if (cost.kv_type, cost.head_dim) == (kv, head_dim)]
    if len(own) > 1:
        return _among(own, layers)
    model = _model_of_shapes(costs, kv, head_dim)
    if model is None:
        return own[0]
    base = next((c for c in model if _heads(c) == _heads(own[0])), model[0])
    return _in_proportion(own[0], _among(model, layers), base)


def _shape(cost: AttentionCost) -> tuple[str, int, int, int]:
    return cost.kv_type, cost.head_dim, cost.n_head, cost.n_head_kv


def _heads(cost: AttentionCost) -> tuple[int, int]:
    return cost.n_head, cost.n_head_kv


def _model_of_shapes(costs: Costs, kv: str, head_dim: int) -> list[AttentionCost] | None:
    """The costs of the nearest KV type and head size that was measured in several shapes."""
    by_kind: dict[tuple[str, int], list[AttentionCost]] = {}
    for cost in costs:
        by_kind.setdefault((cost.kv_type, cost.head_dim), []).append(cost)
    several = [kind for kind, found in by_kind.items() if len(found) > 1]
    if not several:
        return None
    quantised = kv.startswith("q")
    nearest = min(
        several,
        key=lambda kind: (kind[0] != kv, kind[0].startswith("q") != quantised,
                          abs(math.log(kind[1] / head_dim))),
    )  # fmt: skip
    return by_kind[nearest]


def _among(costs: Costs, layers: AttentionLayers) -> AttentionCost:
    """Between the measured shapes: first by queries per KV head, then by KV heads; at the ends
    what was measured there."""
    share = layers.n_head_kv / layers.n_head
    by_kv_heads: dict[int, list[AttentionCost]] = {}
    for cost in costs:
        by_kv_heads.setdefault(cost.n_head_kv, []).append(cost)
    grouped = [
        (math.log(n), _along([(c.n_head_kv / c.n_head, c) for c in found], share))
        for n, found in by_kv_heads.items()
    ]
    return _along(grouped, math.log(layers.n_head_kv))


def _along(points: list[tuple[float, AttentionCost]], place: float) -> AttentionCost:
    points.sort(key=lambda point: point[0])
    place = min(max(place, points[0][0]), points[-1][0])
    for (low, first), (high, second) in pairwise(points):
        if place <= high:
            return _between(first, second, (place - low) / (high - low))
    return points[0][1]


def _between(low: AttentionCost, high: AttentionCost, part: float) -> AttentionCost:
    """part 0: low, 1: high; beyond, along the same line."""
    tiled = low.tiled and high.tiled and _line(low.tiled, high.tiled, part)
    plain = low.plain and high.plain and _line(low.plain, high.plain, part)
    again = low.again and high.again and _line(low.again, high.again, part)
    return replace(
        low, alone=_line(low.alone, high.alone, part), few=_line(low.few, high.few, part),
        tiled=tiled, plain=plain, again=again,
    )  # fmt: skip


def _line(low: Curve, high: Curve, part: float) -> Curve:
    seconds = tuple(
        max(LEAST_SHARE * a, a + part * (at(high, cells) - a))
        for cells, a in zip(low.at, low.seconds, strict=True)
    )
    return Curve(low.at, seconds, low.spread)


def _in_proportion(
    cost: AttentionCost, wanted: AttentionCost, base: AttentionCost
) -> AttentionCost:
    """`cost`, times what `wanted` costs of `base`. Tiles, and rows that see again what
    one before them saw, work out of the caches: as measured."""
    plain = cost.plain
    if plain and wanted.plain and base.plain:
        plain = _times(plain, wanted.plain, base.plain)
    return replace(
        cost, alone=_times(cost.alone, wanted.alone, base.alone),
        few=_times(cost.few, wanted.few, base.few), plain=plain,
    )  # fmt: skip


def _times(curve: Curve, wanted: Curve, base: Curve) -> Curve:
    """`curve`, times `wanted` over `base`."""
    seconds = tuple(
        s * min(max(at(wanted, cells) / at(base, cells), 1 / MOST_RATIO), MOST_RATIO)
        for cells, s in zip(curve.at, curve.seconds, strict=True)
    )
    return Curve(curve.at, seconds, curve.spread)
