"""What top_k, typical_p, top_p and min_p leave of a row of logits.

top_k, top_p and min_p each keep a beginning of the tokens in descending order (of equal ones the
lower id first), so together they are a `Floor`. It is found among the blocks with the highest
maxima; only a flat distribution is sorted whole. typical_p keeps a set that is no beginning.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from okno.core.request import Sampling
from okno.engines.race import ALL, Floor, Ids, Logits, block_maxima

FIRST_LOOK = 64  # blocks that are looked at before the nucleus is known to be larger
TYPICAL_NATS = 30.0

Floats = NDArray[np.float64]


def truncates(s: Sampling, n_vocab: int) -> bool:
    """Some tokens may be cut off."""
    return s.top_p < 1 or s.min_p > 0 or s.typical_p < 1 or 0 < s.top_k < n_vocab


def floor_of(logits: Logits, maxima: Logits, s: Sampling) -> Floor:
    """What top_k, then top_p, then min_p leave; at least one token. Each sees the distribution
    renormalised over what the one before it left; exponentials and the sum over the whole
    vocabulary are in float32 (2e-6 relative), the running sum of the nucleus in float64.

    logits: (n_vocab,), finite or -inf. maxima: its block_maxima.
    """
    best = maxima.max()
    least = float(best) + math.log(s.min_p) if s.min_p > 0 else -math.inf
    if 0 < s.top_k < len(logits):
        values = highest(logits, maxima, s.top_k)
        count = s.top_k
        if s.top_p < 1:
            count = _reaching(_running_mass(values[:count], best), s.top_p)
    elif s.top_p < 1:
        values, count = _nucleus(logits, maxima, s.top_p)
    else:
        return Floor(float(np.float32(least)), ALL.last)
    if s.min_p > 0:
        count = max(1, min(count, int(np.count_nonzero(values >= np.float32(least)))))
    return _floor_after(logits, values, count)


def highest(logits: Logits, maxima: Logits, count: int) -> Logits:
    """The `count` highest logits, descending, and lower ones after them: all that are not below
    some value. The blocks with the `count` highest maxima hold them."""
    n_blocks = len(maxima)
    if 4 * count > n_blocks:
        return np.sort(logits)[::-1]
    least = np.partition(maxima, n_blocks - count)[n_blocks - count]
    values = _in_blocks(logits, np.flatnonzero(maxima >= least), n_blocks)
    return np.sort(values[values >= least])[::-1]


def typical_row(logits: Logits, s: Sampling) -> Logits:
    """The logits with -inf for what top_k, typical_p (Meister et al. 2022), top_p and min_p leave
    out, in this order. Tokens TYPICAL_NATS * max(1, temperature) nats below the best are left out
    first: together they hold at most n_vocab * e^-30 of the mass."""
    maxima = block_maxima(logits)
    near = maxima.max() - np.float32(TYPICAL_NATS * max(1.0, s.temperature))
    kept = logits > near
    if 0 < s.top_k < len(logits):
        values = highest(logits, maxima, s.top_k)
        kept &= _floor_after(logits, values, s.top_k).leaves(logits)
    left = np.full_like(logits, -np.inf)
    ids = np.flatnonzero(kept)
    ids = ids[_typical(logits[ids], s.typical_p)]
    left[ids] = logits[ids]
    return left


def _nucleus(logits: Logits, maxima: Logits, top_p: float) -> tuple[Logits, int]:
    """Values in descending order, all that are not below some value, and how many of them hold
    the share top_p of the whole mass."""
    best = maxima.max()
    values = highest(logits, maxima, FIRST_LOOK)
    if len(values) < len(logits):
        mass = _running_mass(values, best)
        need = top_p * _mass(logits, best)
        if mass[-1] >= need:
            return values, int(np.searchsorted(mass, need, side="left")) + 1
        values = np.sort(logits)[::-1]
    return values, _reaching(_running_mass(values, best), top_p)


def _mass(logits: Logits, best: np.floating) -> float:
    x = logits - best
    return float(np.exp(x, out=x).sum())


def _running_mass(values: Logits, best: np.floating) -> Floats:
    return np.cumsum(np.exp(values - best), dtype=np.float64)


def _reaching(running: Floats, share: float) -> int:
    """How many it takes to reach `share` of the last."""
    return int(np.searchsorted(running, share * running[-1], side="left")) + 1


def _floor_after(logits: Logits, values: Logits, count: int) -> Floor:
    """The floor that leaves `count` tokens. values: descending, complete down to its last."""
    value = values[count - 1]
    rising = values[::-1]
    above = len(values) - int(np.searchsorted(rising, value, side="right"))
    equal = len(values) - int(np.searchsorted(rising, value, side="left")) - above
    if equal == count - above:
        return Floor(float(value), ALL.last)
    return Floor(float(value), int(np.flatnonzero(logits == value)[count - above - 1]))


def _in_blocks(logits: Logits, blocks: Ids, n_blocks: int) -> Logits:
    """The logits in these blocks, in any order."""
    whole = len(logits) - len(logits) % n_blocks
    rest = logits[whole:]
    found = logits[:whole].reshape(-1, n_blocks).take(blocks, axis=1)
    return np.concatenate([found.ravel(), rest[blocks[blocks < len(rest)]]])


def _typical(x: Logits, typical_p: float) -> Ids:
    """Positions whose surprisal is closest to the entropy, until they hold typical_p."""
    p = np.exp(x.astype(np.float64) - float(x.max()))
    p /= p.sum()
    surprisal = float(x.max()) - math.log(float(p.max())) - x.astype(np.float64)
    order = np.argsort(np.abs(surprisal - float(p @ surprisal)), kind="stable")
    return order[: _reaching(np.cumsum(p[order]), typical_p)]
