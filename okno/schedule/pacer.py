"""How many prompt rows a step takes: the row count that fills the window best in the time it may.

The time of a step is no straight line in its rows: 8 rows may cost more than 16, and from 64 rows
on llama.cpp's CPU flash attention works in tiles of 64 (a row at depth 640 costs a third of what it
costs in smaller pieces). So a few row counts are tried against the predicted cost of the step, and
the one that computes most prompt rows per second wins, decoding neighbours included; of those that
are nearly as fast the shortest step where somebody decodes, the longest where nobody does.

While somebody decodes, a step may take the target gap between tokens (`--target-itl`); without
neighbours ALONE_S, short enough that a client who leaves frees its sequence within two seconds.
The default target follows the curve: MIXED_S, twice the step without prompts if that is longer, and
up to LONGEST_S where pieces within the target would compute prompts WORTH_WAITING times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from okno.schedule.cost import Ahead, StepCost

MIXED_S = 0.3
ALONE_S = 0.5
LONGEST_S = 1.0
TILE_ROWS = 64
LEAST_ROWS = 4
TRIED = (8, 16, 24, 32, 48)  # rows of a whole step below one tile
NEARLY = (
    0.95  # of the speed of the best: of those the shortest step beside others, else the longest
)
WORTH_WAITING = 1.5  # a longer step must compute prompts so much faster
DECODES_TO_GAP = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """The gap between tokens that a step beside others may cost. itl_s: asked for, 0 for no limit,
    None for the default."""

    itl_s: float | None = None

    def limits_s(self, decode_s: float) -> tuple[float, float]:
        """(what a step may take, what it may take where that is far too little), when
        the step without prompts takes decode_s."""
        if self.itl_s == 0:
            return float("inf"), float("inf")
        if self.itl_s is not None:
            return self.itl_s, self.itl_s
        limit_s = max(MIXED_S, DECODES_TO_GAP * decode_s)
        return limit_s, max(limit_s, LONGEST_S)


def piece_rows(
    seconds: Callable[[int], float], most: int, decodes: int = 0, target: Target | None = None
) -> int:
    """Prompt rows beside `decodes` decoding ones, at most `most`. seconds: of the step with so many
    prompt rows. Where even the fewest take too long, the fewest."""
    tried = [(rows, max(seconds(rows), 1e-9)) for rows in _counts(most, decodes)]
    if decodes:
        limit_s, longest_s = (target or Target()).limits_s(seconds(0))
    else:
        limit_s, longest_s = ALONE_S, LONGEST_S
    within = [one for one in tried if one[1] <= limit_s]
    beyond = [one for one in tried if one[1] <= longest_s]
    if not beyond:
        return min(tried, key=lambda one: one[1])[0]
    if not within or _best_speed(beyond) > WORTH_WAITING * _best_speed(within):
        within = beyond
    good = [rows for rows, s in within if rows / s >= NEARLY * _best_speed(within)]
    return min(good) if decodes else max(good)


class Pacer:
    """The rows of prompts for each step of an engine. step_tokens: rows of a step at most."""

    def __init__(self, step_tokens: int, cost: StepCost, target: Target | None = None) -> None:
        self._most = step_tokens
        self._cost = cost
        self._target = target or Target()

    def prompt_rows(self, ahead: Ahead) -> int:
        """At most this many prompt rows in the step `ahead`."""
        return piece_rows(
            lambda rows: self._cost.seconds(ahead, rows),
            max(1, self._most - ahead.decodes), ahead.decodes, self._target,
        )  # fmt: skip


def _counts(most: int, decodes: int) -> list[int]:
    """Prompt rows worth trying: with the decoding ones they fill tiles, as far as `most` allows."""
    tiles = range(TILE_ROWS, most + decodes + 1, TILE_ROWS)
    totals = [*(n for n in TRIED if n <= most + decodes), *tiles]
    counts = [total - decodes for total in totals if total - decodes >= min(LEAST_ROWS, most)]
    return counts or [most]


def _best_speed(tried: list[tuple[int, float]]) -> float:
    """Prompt rows per second of the fastest."""
    return max(rows / seconds for rows, seconds in tried)
