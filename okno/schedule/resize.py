"""Resizing under way: what becomes of the scheduler's books when the engine opens another window.

A part of Scheduler and Cache in a file of its own: it works on their books (also the private ones),
as pure as they are. Sequences keep their tokens whatever happens. Before the engine moves
(`make_fit`), those that the new window has no slot, engine sequence or cell for let go of theirs:
parked ones first, then the youngest live ones, which wait again with what was computed of them
parked or in host memory. Afterwards (`adopt`) cells and engine sequences are numbered anew; where
the engine could not move the states, every live sequence waits and is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from okno.core.errors import WindowInUse
from okno.schedule.pool import KVPool
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import IntBuffer, Sequence
from okno.schedule.step import Limits


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
    the operations of the cache before it moves anything."""
    cache = scheduler.cache
    live = sorted(scheduler.live.values(), key=lambda s: s.arrival)
    for sequence in live[limits.batch_size :]:
        del scheduler.live[sequence.id]
        cache.leave(sequence)
        _wait_again(scheduler, sequence)
    while len(scheduler.live) + len(cache.parked) > limits.seq_ids:
        cache.evict()
    while cache.pool.used > limits.pool_cells:
        if not cache.evict():
            scheduler._preempt(max(scheduler.live.values(), key=lambda s: s.arrival))


def moves(scheduler: Scheduler, limits: Limits) -> Moves:
    """Where the state of each sequence goes: it keeps its engine sequence where `limits` have one
    of that number."""
    held = [move.src for move in stays(scheduler)]
    free = (seq for seq in range(limits.seq_ids) if seq not in held)
    return tuple(Move(seq, seq if seq < limits.seq_ids else next(free)) for seq in held)


def stays(scheduler: Scheduler) -> Moves:
    """Every state where it is."""
    return tuple(Move(s.seq, s.seq) for s in _holding(scheduler) if s.seq is not None)


def adopt(
    scheduler: Scheduler, limits: Limits, moved: Moves | None, *, keeps_stored: bool = True
) -> None:
    """The engine has the new window, with the states that `moved` names; None: with none.
    keeps_stored: states in host memory can come back into it."""
    if moved is None:
        _forget_computed(scheduler)
    holding = _holding(scheduler)
    new = {move.src: move.dst for move in moved or ()}
    for sequence in holding:
        assert sequence.seq is not None
        sequence.seq = new[sequence.seq]
    cache = scheduler.cache
    scheduler.limits = cache.limits = limits
    cache.pool = _renumbered(holding, limits.pool_cells)
    cache.parked = {s.seq: s for s in cache.parked.values() if s.seq is not None}
    taken = set(new.values())
    cache._free_seqs = [seq for seq in reversed(range(limits.seq_ids)) if seq not in taken]
    _restock(scheduler, keeps_stored=keeps_stored)


def _holding(scheduler: Scheduler) -> list[Sequence]:
    return [*scheduler.live.values(), *scheduler.parked.values()]


def _wait_again(scheduler: Scheduler, sequence: Sequence) -> None:
    scheduler.preemptions += 1
    scheduler.waiting.add_resumed(sequence)


def _forget_computed(scheduler: Scheduler) -> None:
    """Nothing is in the KV cache any more: live sequences wait again, parked ones are gone."""
    for sequence in _holding(scheduler):
        scheduler.cache._tree.remove(sequence)
        sequence.cells, sequence.seq = IntBuffer(), None
    scheduler.cache.parked = {}
    live, scheduler.live = scheduler.live, {}
    for sequence in live.values():
        _wait_again(scheduler, sequence)


def _restock(scheduler: Scheduler, *, keeps_stored: bool) -> None:
    """Host memory under the new limits, for states that the new window can take back."""
    cache = scheduler.cache
    for sequence in cache.host.resize(cache.limits, keeps=keeps_stored):
        cache._operations.append(cache.host.forget(sequence))
        cache._tree.remove(sequence)


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
