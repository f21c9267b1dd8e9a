"""Means of correlated per-token losses with 90 % intervals.

Losses of neighbouring tokens are correlated, so the interval comes from means of blocks (batch
means: Law & Kelton, Simulation Modeling and Analysis, 9.5.3): at most BLOCKS consecutive blocks,
their means taken as independent, Student's t on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from okno.core.plan import Figure

Floats = NDArray[np.float64]
BLOCKS = 24
LN2 = math.log(2.0)
FIRST_BUCKET = 16  # tokens at the beginning that share one bucket
Z95 = 1.6448536269514722


def mean_with_interval(values: Floats, scale: float = 1.0) -> Figure:
    """The mean of consecutive values times `scale`. A single value has an unbounded interval."""
    mean = float(values.mean())
    if len(values) < 2:
        return Figure(mean * scale, -math.inf, math.inf, "measured")
    means = np.array([block.mean() for block in np.array_split(values, min(BLOCKS, len(values)))])
    half = t95(len(means) - 1) * float(means.std(ddof=1)) / math.sqrt(len(means))
    ends = sorted(((mean - half) * scale, (mean + half) * scale))
    return Figure(mean * scale, ends[0], ends[1], "measured")


def bits(nats: Floats) -> Figure:
    """The mean of losses in nats, in bits per token."""
    return mean_with_interval(nats, 1.0 / LN2)


def t95(degrees: int) -> float:
    """The 95 % quantile of Student's t (Hill 1970, expansion around the normal quantile; exact
    for 1 and 2 degrees of freedom, within 0.5 % above)."""
    if degrees == 1:
        return math.tan(math.pi * 0.45)
    if degrees == 2:
        return 0.9 * math.sqrt(2.0 / (1.0 - 0.9**2))
    z, v = Z95, float(degrees)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def buckets(longest: int) -> list[tuple[int, int]]:
    """Position ranges [first, last) that cover 0 to `longest`, two to each doubling (4:3)."""
    edges = [0, FIRST_BUCKET]
    while edges[-1] < longest:
        power = 1 << (edges[-1].bit_length() - 1)
        edges.append(edges[-1] + power // 2)
    edges[-1] = min(edges[-1], longest)
    if len(edges) > 2 and 2 * (edges[-1] - edges[-2]) < edges[-2] - edges[-3]:
        del edges[-2]  # a rest too short to say anything alone
    return list(pairwise(edges))


def of_positions(passes: Sequence[Floats], first: int, last: int) -> Floats:
    """Values of all passes at positions first <= i < last, NaN (not judged) left out."""
    values = np.concatenate([losses[first:last] for losses in passes])
    kept: Floats = values[~np.isnan(values)]
    return kept
