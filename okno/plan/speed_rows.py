"""Costs against rows: measured points joined, with the steps of four that the kernels make.

llama.cpp's repacked products take rows in groups of four and the remaining one to three each on
its own (ggml-cpu/repack.cpp, forward_mul_mat_one_chunk), so 17 rows may cost more than 20. Between
measured points the whole groups are joined linearly and the remainder costs what it cost at 16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from okno.core.calibration import Curve

GROUP = 4
REMAINDER_AT = 16  # 17, 18 and 19 rows are measured for what a remainder costs
Floats = NDArray[np.float64]


def table(curve: Curve, most: int) -> Floats:
    """Seconds for 0..most rows. Outside the measured rows: below, the first; above, in
    proportion to rows."""
    rows = np.arange(most + 1)
    at, seconds = np.array(curve.at), np.array(curve.seconds)
    plain = _joined(rows, at, seconds)
    remainder = _remainder(curve)
    if remainder is not None:
        groups = np.isin(at, at[(at % GROUP == 0) & (at >= REMAINDER_AT)])
        stepped = _joined(rows - rows % GROUP, at[groups], seconds[groups]) + remainder[rows % 4]
        unmeasured = (rows > REMAINDER_AT) & ~np.isin(rows, at)
        plain = np.where(unmeasured, stepped, plain)
    plain[0] = 0.0
    return plain


def _joined(rows: NDArray[np.int64], at: NDArray[np.int64] | Floats, seconds: Floats) -> Floats:
    within = np.interp(rows, at, seconds)
    return np.where(rows > at[-1], seconds[-1] * rows / at[-1], within)


def _remainder(curve: Curve) -> Floats | None:
    """What 0..3 rows beside whole groups cost, when the curve tells."""
    known = dict(zip(curve.at, curve.seconds, strict=True))
    wanted = range(REMAINDER_AT, REMAINDER_AT + GROUP)
    if not all(rows in known for rows in wanted):
        return None
    return np.array([max(0.0, known[rows] - known[REMAINDER_AT]) for rows in wanted])


def slimness(wide: Curve, slim: Curve, most: int) -> Floats:
    """What a weight of a slim matrix costs more than one of a wide one, for 0..most rows: known
    at the rows both were measured at. A product has a cost per output beside that per weight, so
    the difference grows with 1 / inputs."""
    known = dict(zip(wide.at, wide.seconds, strict=True))
    both = [(n, s - known[n]) for n, s in zip(slim.at, slim.seconds, strict=True) if n in known]
    if not both:
        return np.zeros(most + 1)
    at, more = np.array(both).T
    seconds = _joined(np.arange(most + 1), at, np.maximum(more, 0.0))
    seconds[0] = 0.0
    return seconds


def line(curve: Curve) -> tuple[float, float]:
    """(first, next): what the first row costs, and each further one."""
    if len(curve.at) == 1:
        return curve.seconds[0], curve.seconds[0]
    span = curve.at[-1] - curve.at[0]
    slope = max(0.0, (curve.seconds[-1] - curve.seconds[0]) / span)
    return max(0.0, curve.seconds[0] - slope * (curve.at[0] - 1)), slope
