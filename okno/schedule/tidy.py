"""Keeping the used part of the pool short: every step walks all cells up to the highest used one.

So parked sequences cost each step although nobody reads them, and so does a live one that lies high
after its neighbours have ended. Parked ones move to host memory, those worth most first, as far as
there is room; what lies high is packed into the free cells below. One sequence at a time, so that
little time passes between two looks at what arrives. Pure: books, like scheduler.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from okno.schedule.cost import StepCost
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence

PAYS_WITHIN_STEPS = 16
PROMPT_ROWS = 32  # of a step beside which prompts are computed, about


@dataclass(frozen=True, slots=True)
class Piece:
    """One sequence to move: out of the pool, or into its lowest free cells."""

    sequence: Sequence
    out: bool


def next_to_tidy(scheduler: Scheduler) -> Piece | None:
    """What to move next; None: the pool is as short as it gets."""
    if not _excess_cells(scheduler):
        return None
    cache = scheduler.cache
    out = cache.too_short_to_store() or cache.next_to_store()
    if out is not None:
        return Piece(out, out=True)
    high = _next_to_pack(scheduler)
    return None if high is None else Piece(high, out=False)


def tidy(scheduler: Scheduler, piece: Piece) -> None:
    """Book the move; the engine has to do what the cache collects."""
    if piece.out:
        scheduler.cache.give_up(piece.sequence)
    else:
        scheduler.cache.pack(piece.sequence)


def lost_s(scheduler: Scheduler, cost: StepCost) -> float:
    """Seconds that the next step takes longer for cells that nobody in it reads."""
    if not _excess_cells(scheduler):
        return 0.0
    ahead = scheduler.ahead()
    rows = min(PROMPT_ROWS, ahead.prompt_tokens)
    short = replace(ahead, used_cells=_live_cells(scheduler))
    return max(0.0, cost.seconds(ahead, rows) - cost.seconds(short, rows))


def pays(scheduler: Scheduler, each_s: float, before_s: float, byte_s: float) -> bool:
    """Beside live sequences: what PAYS_WITHIN_STEPS more steps lose, each_s each, and the steps
    before have lost, before_s, is more than all the copying takes: a load that goes on loses by
    waiting about what the copying costs, not more and more. That some of it may have to come back
    is not counted. byte_s: seconds to copy a byte, one way."""
    if not each_s:
        return False
    return _copied_bytes(scheduler) * byte_s < PAYS_WITHIN_STEPS * each_s + before_s


def _live_cells(scheduler: Scheduler) -> int:
    return scheduler.pool.distinct(s.cells.view() for s in scheduler.live.values())


def _excess_cells(scheduler: Scheduler) -> int:
    """Cells that a step walks for nothing."""
    if not scheduler.limits.walk_cells:
        return 0
    return _walked(scheduler, scheduler.pool.end) - _walked(scheduler, _live_cells(scheduler))


def _walked(scheduler: Scheduler, end: int) -> int:
    """Cells that a step walks when no used one is from `end` on."""
    grain = scheduler.limits.walk_cells
    return max(1, -(-end // grain)) * grain


def _copied_bytes(scheduler: Scheduler) -> int:
    """Of all that is to be moved: the parked ones once, high live ones out and in again."""
    stored = scheduler.limits.stored_bytes
    parked = sum(stored(s.computed) for s in scheduler.parked.values())
    end = _live_cells(scheduler)
    high = [s for s in scheduler.live.values() if _lies_high(s, end)]
    return parked + 2 * sum(stored(s.computed) for s in high)


def _lies_high(sequence: Sequence, end: int) -> int:
    """How many of its cells are not below `end`."""
    return int(np.count_nonzero(sequence.cells.view() >= end))


def _next_to_pack(scheduler: Scheduler) -> Sequence | None:
    """The sequence with most cells beyond what is used in all. Packing it fills holes below, so
    this comes to an end."""
    pool = scheduler.pool
    if _walked(scheduler, pool.end) == _walked(scheduler, pool.used):
        return None
    holding = (*scheduler.live.values(), *scheduler.parked.values())
    own = (s for s in holding if pool.is_held_once(s.cells.view()))
    found = max(own, key=lambda s: _lies_high(s, pool.used), default=None)
    return found if found is not None and _lies_high(found, pool.used) else None
