"""A measured curve between its points."""

from __future__ import annotations

from bisect import bisect_right

from okno.core.calibration import Curve


def at(curve: Curve, count: float) -> float:
    """The curve at `count`, between two points linear, outside as at its ends."""
    place = bisect_right(curve.at, count)
    if place == 0 or place == len(curve.at):
        return curve.seconds[-1 if place else 0]
    low, high = curve.at[place - 1], curve.at[place]
    a, b = curve.seconds[place - 1], curve.seconds[place]
    return a + (b - a) * (count - low) / (high - low)
