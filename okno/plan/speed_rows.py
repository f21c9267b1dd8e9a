"""Costs against rows: measured points joined, with the steps that the kernels make between them.

llama.cpp's repacked products take rows in groups of four and the remaining one to three each on
its own (ggml-cpu/repack.cpp, forward_mul_mat_one_chunk), so 17 rows may cost more than 20. Its AMX
products take them in blocks of 32, and a second block that is begun costs almost as much as a full
one (ggml-cpu/amx/mmq.cpp): 33 rows take as long as 60. What the rows of a group and of a block
cost is measured once each, and repeats between the other measured points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from okno.core.calibration import Curve

GROUP, BLOCK = 4, 32
REMAINDER_AT = 20  # up to the next group all rows are measured
BEGUN_AT = (33, 48)  # measured for what a block costs of which so many rows are used
LEAST_SLIM = 0.5  # of the cost of a wide matrix; what looks like less was disturbed
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def table(curve: Curve, most: int) -> Floats:
    """Seconds for 0..most rows. Outside the measured rows: below, the first; above, in
    proportion to rows."""
    rows = np.arange(most + 1)
    at, seconds = np.array(curve.at), np.array(curve.seconds)
    remainder = _remainder(curve)
    between = (rows > REMAINDER_AT) & ~np.isin(rows, at)
    stepped = _stepped(curve, rows, remainder) + _begun(curve, rows, remainder)
    plain = np.where(between, stepped, _joined(rows, at, seconds))
    plain[0] = 0.0
    return plain


def _joined(rows: Ints, at: Ints | Floats, seconds: Floats) -> Floats:
    within = np.interp(rows, at, seconds)
    return np.where(rows > at[-1], seconds[-1] * rows / at[-1], within)


def _stepped(curve: Curve, rows: Ints, remainder: Floats | None) -> Floats:
    """Whole groups, beyond the first block whole blocks, joined; and the remaining rows."""
    at, seconds = np.array(curve.at), np.array(curve.seconds)
    if remainder is None:
        return _joined(rows, at, seconds)
    whole = (at % GROUP == 0) & ((at <= BLOCK) | (at % BLOCK == 0))
    return _joined(rows - rows % GROUP, at[whole], seconds[whole]) + remainder[rows % GROUP]


def _remainder(curve: Curve) -> Floats | None:
    """What 0..3 rows beside whole groups cost, when the curve tells."""
    known = dict(zip(curve.at, curve.seconds, strict=True))
    wanted = range(REMAINDER_AT, REMAINDER_AT + GROUP)
    if not all(rows in known for rows in wanted):
        return None
    return np.array([max(0.0, known[rows] - known[REMAINDER_AT]) for rows in wanted])


def _begun(curve: Curve, rows: Ints, remainder: Floats | None) -> Floats:
    """What rows beyond the last whole block cost more than their share of the next, which is never
    less than nothing nor more than the rest of a whole block: a disturbed measurement that says so
    counts for its own rows, and does not repeat."""
    known = dict(zip(curve.at, curve.seconds, strict=True))
    if not {BLOCK, *BEGUN_AT, 2 * BLOCK} <= known.keys():
        return np.zeros(len(rows))
    at = np.array(BEGUN_AT)
    share = _stepped(curve, at, remainder)
    more = np.minimum(np.array([known[n] for n in BEGUN_AT]), known[2 * BLOCK]) - share
    more = np.maximum(more, 0.0)
    beside = np.where(rows > BLOCK, rows % BLOCK, 0)
    begun: Floats = np.interp(beside, [0, *(at - BLOCK), BLOCK], [0.0, *more, 0.0])
    return begun


def slimness(wide: Curve, slim: Curve, most: int) -> Floats:
    """What a weight of a slim matrix costs more than one of a wide one (less: below 0, down to
    LEAST_SLIM of it), for 0..most rows: known at the rows both were measured at. A product has a
    cost per output beside that per weight, so the difference grows with 1 / inputs; AMX works
    faster on slim matrices."""
    known = dict(zip(wide.at, wide.seconds, strict=True))
    both = [(n, s - known[n]) for n, s in zip(slim.at, slim.seconds, strict=True) if n in known]
    if not both:
        return np.zeros(most + 1)
    at, more = np.array(both).T
    seconds = _joined(np.arange(most + 1), at, more)
    seconds = np.maximum(seconds, (LEAST_SLIM - 1) * table(wide, most))
    seconds[0] = 0.0
    return seconds


def line(curve: Curve) -> tuple[float, float]:
    """(first, next): what the first row costs, and each further one."""
    if len(curve.at) == 1:
        return curve.seconds[0], curve.seconds[0]
    span = curve.at[-1] - curve.at[0]
    slope = max(0.0, (curve.seconds[-1] - curve.seconds[0]) / span)
    return max(0.0, curve.seconds[0] - slope * (curve.at[0] - 1)), slope
