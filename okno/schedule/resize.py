"""Resizing under way: what becomes of the scheduler's books when the engine opens another window.

A part of the scheduler in a file of its own: it works on the same books (`Scheduler`'s private
parts), as pure as they are. Sequences keep their tokens whatever happens. Before the engine moves
(`make_fit`), those that the new window has no slot, engine sequence or cell for let go of theirs:
parked ones first, then the youngest live ones, which wait again with what was computed of them
parked. Afterwards (`adopt`) cells and engine sequences are numbered anew; where the engine could
not move the states, every live sequence waits and is computed again.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np

from okno.core.errors import WindowInUse
from okno.schedule.pool import KVPool
from okno.schedule.scheduler import Limits, Operation, Scheduler
from okno.schedule.sequence import IntBuffer, Sequence


@dataclass(frozen=True, slots=True)
class Move:
    """The state of engine sequence `src` becomes that of `dst` in the new window."""

    src: int
    dst: int


Moves = tuple[Move, ...]


def check_room(scheduler: Scheduler, ctx: int) -> None:
    """Raise WindowInUse when a live or waiting sequence may grow beyond `ctx` tokens."""
    asked = (s.max_tokens for s in (*scheduler.live.values(), *scheduler.waiting))
    larger = [tokens for tokens in asked if tokens > ctx]
    if larger:
        largest, one = max(larger), len(larger) == 1
        raise WindowInUse(
            f"{len(larger):,} {'request' if one else 'requests'} under way may grow to "
            f"{largest:,} tokens, prompt and answer together, but ctx would be {ctx:,}. "
            f"Ask for a ctx of at least {largest:,}, or again when "
            f"{'it has' if one else 'they have'} ended.",
            param="ctx", ctx=ctx, n_requests=len(larger), largest_tokens=largest,
        )  # fmt: skip


def make_fit(scheduler: Scheduler, limits: Limits) -> None:
    """Let go of what `limits` have no place for. The engine, still in the old window, has to apply
    `take_operations` before it moves anything."""
    live = sorted(scheduler.live.values(), key=lambda s: s.arrival)
    for sequence in live[limits.batch_size :]:
        _set_aside(scheduler, sequence)
    while len(scheduler.live) + len(scheduler.parked) > limits.seq_ids:
        scheduler._evict()
    while scheduler.pool.used > limits.pool_cells:
        if not scheduler._evict():
            scheduler._preempt(max(scheduler.live.values(), key=lambda s: s.arrival))


def take_operations(scheduler: Scheduler) -> tuple[Operation, ...]:
    """What the engine does not know yet of the books."""
    operations, scheduler._operations = tuple(scheduler._operations), []
    return operations


def moves(scheduler: Scheduler, limits: Limits) -> Moves:
    """Where the state of each sequence goes: it keeps its engine sequence where `limits` have one
    of that number."""
    held = [s.seq for s in _holding(scheduler) if s.seq is not None]
    free = (seq for seq in range(limits.seq_ids) if seq not in held)
    return tuple(Move(seq, seq if seq < limits.seq_ids else next(free)) for seq in held)


def stays(scheduler: Scheduler) -> Moves:
    """Every state where it is."""
    return tuple(Move(s.seq, s.seq) for s in _holding(scheduler) if s.seq is not None)


def adopt(scheduler: Scheduler, limits: Limits, moved: Moves | None) -> None:
    """The engine has the new window, with the states that `moved` names; None: with none."""
    if moved is None:
        _forget(scheduler)
    holding = _holding(scheduler)
    new = {move.src: move.dst for move in moved or ()}
    for sequence in holding:
        assert sequence.seq is not None
        sequence.seq = new[sequence.seq]
    scheduler.limits = limits
    scheduler.pool = _renumbered(holding, limits.pool_cells)
    scheduler.parked = {s.seq: s for s in scheduler.parked.values() if s.seq is not None}
    taken = set(new.values())
    scheduler._free_seqs = [seq for seq in reversed(range(limits.seq_ids)) if seq not in taken]


def _holding(scheduler: Scheduler) -> list[Sequence]:
    return [*scheduler.live.values(), *scheduler.parked.values()]


def _set_aside(scheduler: Scheduler, sequence: Sequence) -> None:
    """A live sequence waits again; its computed part is parked, for it to take over."""
    part = copy(sequence)
    scheduler._arrivals += 1
    part.id = f"{sequence.id} until {scheduler._arrivals}"  # no request's: ids are unique
    part.known = IntBuffer(sequence.known.view()[: sequence.computed])
    part.prompt_tokens = min(sequence.prompt_tokens, sequence.computed)
    scheduler._park(part)
    _wait_again(scheduler, sequence)


def _wait_again(scheduler: Scheduler, sequence: Sequence) -> None:
    scheduler.preemptions += 1
    del scheduler.live[sequence.id]
    sequence.cells, sequence.seq = IntBuffer(), None
    scheduler.waiting.add_resumed(sequence)


def _forget(scheduler: Scheduler) -> None:
    """Nothing is computed any more: live sequences wait again, parked ones are gone."""
    scheduler.parked = {}
    for sequence in list(scheduler.live.values()):
        _wait_again(scheduler, sequence)


def _renumbered(holding: list[Sequence], size: int) -> KVPool:
    """Books of `size` cells with those that `holding` hold; shared ones stay shared."""
    pool = KVPool(size)
    if not holding:
        return pool
    old = np.unique(np.concatenate([s.cells.view() for s in holding]))
    new = pool.allocate(len(old))
    for sequence in holding:
        sequence.cells = IntBuffer(new[np.searchsorted(old, sequence.cells.view())])
        pool.share(sequence.cells.view())
    pool.release(new)  # held by the sequences alone
    return pool
