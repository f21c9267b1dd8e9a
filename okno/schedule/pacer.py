"""How many prompt rows a step takes: the row count that fills the window best in the time it may.

The time of a step is no straight line in its rows: 8 rows may cost more than 16, and from 64 rows
on llama.cpp's CPU flash attention works in tiles of 64 (a row at depth 640 costs a third of what it
costs in smaller pieces). So a few row counts are tried against the predicted cost of the step, and
the one that computes most prompt rows per second wins, decoding neighbours included; of those that
are nearly as fast the shortest step where somebody decodes, the longest for a prompt alone; of
several prompts the shortest of whole tiles, for the next short one waits until it ends. What
remains of a prompt after whole tiles counts against a piece that leaves it for the end: it is
computed first, where it is cheap (40 rows take 0.3 s at depth 0 and 0.8 s at depth 600).

While somebody decodes, a step may take the target gap between tokens (`--target-itl`); without
neighbours ALONE_S, a single tile up to LONGEST_S where that computes prompts WORTH_ALONE times as
fast: the next prompt may come any moment, and a client who leaves frees its sequence within two
seconds. The default target follows the curve: MIXED_S, twice the step without prompts if that is
longer, and up to LONGEST_S where pieces within the target would compute prompts WORTH_WAITING times
slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from okno.schedule.cost import Ahead, StepCost

MIXED_S = 0.3
ALONE_S = 0.5
LONGEST_S = 1.0
TILE_ROWS = 64
LEAST_ROWS = 4
TRIED = (8, 12, 16, 20, 24, 28, 32, 40, 48)  # rows of a whole step below one tile
NEARLY = 0.95  # of the speed of the best: of those one is taken by its length
TILES_PAY = 1.2
WORTH_WAITING = 3.0  # a longer step must compute prompts so much faster
WORTH_ALONE = 1.1  # likewise where nobody decodes
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


@dataclass(frozen=True, slots=True)
class Rest:
    """tokens: of all prompts that are not computed yet. last_s: seconds of a last piece of so many
    rows, at the end of the prompts."""

    tokens: int
    last_s: Callable[[int], float]


def piece_rows(
    seconds: Callable[[int], float],
    most: int,
    decodes: int = 0,
    target: Target | None = None,
    rest: Rest | None = None,
    prompts: int = 1,
) -> int:
    """Prompt rows of `prompts` live prompts beside `decodes` decoding ones, at most `most`.
    seconds: of the step with so many prompt rows. rest: what is left over after whole tiles counts
    against a piece. Where even the fewest rows take too long, the fewest."""
    counts = _counts(most, decodes, rest)
    if rest is not None and not _tiles_pay(rest.last_s, counts, decodes):
        rest = None
    tried = [
        _Tried(rows, max(seconds(rows), 1e-9), *_left_over(rows, decodes, rest)) for rows in counts
    ]
    if decodes:
        limit_s, longest_s = (target or Target()).limits_s(seconds(0))
        worth, longest = WORTH_WAITING, most
    else:
        limit_s, longest_s = ALONE_S, LONGEST_S
        worth, longest = WORTH_ALONE, TILE_ROWS
    within = [one for one in tried if one.seconds <= limit_s]
    beyond = [one for one in tried if one.rows <= longest and one.seconds <= longest_s]
    if not beyond:
        return min(tried, key=lambda one: one.seconds).rows
    if not within or _best_speed(beyond) > worth * _best_speed(within):
        within = beyond
    good = [one.rows for one in within if one.speed >= NEARLY * _best_speed(within)]
    if decodes:
        return min(good)
    tiles = [rows for rows in good if rows >= TILE_ROWS]
    return min(tiles) if tiles and prompts > 1 else max(good)


class Pacer:
    """The rows of prompts for each step of an engine. step_tokens: rows of a step at most."""

    def __init__(self, step_tokens: int, cost: StepCost, target: Target | None = None) -> None:
        self._most = step_tokens
        self._cost = cost
        self._target = target or Target()

    def prompt_rows(self, ahead: Ahead) -> int:
        """At most this many prompt rows in the step `ahead`."""

        def last_s(rows: int) -> float:
            depth = max(ahead.prompt_depth, ahead.prompt_end - rows)
            return self._cost.seconds(replace(ahead, prompt_depth=depth), rows)

        return piece_rows(
            lambda rows: self._cost.seconds(ahead, rows),
            max(1, self._most - ahead.decodes), ahead.decodes, self._target,
            Rest(ahead.prompt_tokens, last_s) if ahead.prompt_tokens else None, ahead.prompts,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Tried:
    """A piece, and what it leaves for the last one after whole tiles."""

    rows: int
    seconds: float
    left_rows: int
    left_s: float

    @property
    def speed(self) -> float:
        """Prompt rows per second."""
        return (self.rows + self.left_rows) / (self.seconds + self.left_s)


def _tiles_pay(seconds: Callable[[int], float], counts: list[int], decodes: int) -> bool:
    """At the end of the prompts a whole tile computes rows faster than any smaller piece; else what
    is left after tiles matters to nobody. seconds: of a last piece."""
    tile = TILE_ROWS - decodes
    below = [rows / max(seconds(rows), 1e-9) for rows in counts if rows < tile]
    return not below or tile / max(seconds(tile), 1e-9) > TILES_PAY * max(below)


def _left_over(rows: int, decodes: int, rest: Rest | None) -> tuple[int, float]:
    """(rows, seconds) of the last piece, if the others after this one are whole tiles. Beside
    others pieces below a tile are followed by many like them, and the last one weighs little."""
    tile = TILE_ROWS - decodes
    if rest is None or tile <= 0 or (decodes and rows < tile):
        return 0, 0.0
    left = max(0, rest.tokens - rows) % tile
    return left, rest.last_s(left) if left else 0.0


def _counts(most: int, decodes: int, rest: Rest | None) -> list[int]:
    """Prompt rows worth trying: with the decoding ones they fill tiles, as far as `most` allows; or
    what remains after whole tiles."""
    tiles = range(TILE_ROWS, most + decodes + 1, TILE_ROWS)
    totals = [*(n for n in TRIED if n <= most + decodes), *tiles]
    counts = [total - decodes for total in totals if total - decodes >= min(LEAST_ROWS, most)]
    if rest is not None:
        tile = TILE_ROWS - decodes
        odd = rest.tokens % tile if tile > 0 else 0
        counts = [n for n in (*counts, odd, odd + tile, rest.tokens) if 0 < n <= rest.tokens]
        most = min(most, rest.tokens)
    counts = [n for n in counts if n <= most]
    return sorted(set(counts)) or [most]


def _best_speed(tried: list[_Tried]) -> float:
    """Prompt rows per second of the fastest."""
    return max(one.speed for one in tried)
