"""Another window for a model that is loaded: prepared beside the loop, carried out between steps.

What may take long (asking the planner, opening the second context, touching its memory) happens in
a thread of its own while the steps go on; the loop only moves the states. Where the two contexts do
not fit together, the loop also frees the old one and opens the new one: staged, a longer pause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from okno.core.errors import OknoError
from okno.core.window import Window, WindowChange
from okno.engines.protocol import Resize, ResizeCounts, Resized, WorkerOptions
from okno.schedule.resize import (
    Moves,
    adopt,
    check_room,
    make_fit,
    moves,
    stays,
)
from okno.schedule.scheduler import Scheduler
from okno.schedule.step import Limits, Operation

if TYPE_CHECKING:
    from okno.engines.engine import Engine


class Prepared(Protocol):
    """A window that an engine can switch to. fits_states: states of sequences fit into it. moves:
    and are taken along; otherwise all is computed again."""

    @property
    def window(self) -> Window: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def fits_states(self) -> bool: ...

    @property
    def moves(self) -> bool: ...

    @property
    def needed_bytes(self) -> int:
        """Predicted, of the whole load in the new window."""
        ...

    def open(self, used_cells: int) -> None:
        """Do what can be done while the old window serves; used_cells: about as many cells are to
        be moved. Any thread."""
        ...

    def switch(self, operations: Sequence[Operation], moves: Moves) -> Switched:
        """Apply `operations` to the old window, then go on in the new one with the states that
        `moves` names. Raises EngineBroken when neither window is there any more."""
        ...

    def release(self) -> None:
        """Free what is not needed any more: the old context after a switch, the new one without.
        Any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Switched:
    """moved: the states are there. staged: the old context was freed before the new one opened.
    state_bytes: copied through main memory. refused: why it is the old window again."""

    moved: bool
    staged: bool = False
    state_bytes: int = 0
    refused: OknoError | None = None


@dataclass(frozen=True, slots=True)
class ResizeJob:
    """`prepared` for the loop to carry out. outcome gets one item: the counts, the error that kept
    the old window, or None when the caller had left."""

    call: int
    prepared: Prepared
    outcome: SimpleQueue[ResizeCounts | OknoError | None] = field(default_factory=SimpleQueue)


def resize(
    engine: Engine, message: Resize, used_cells: int, to_loop: Callable[[ResizeJob], None]
) -> Resized | None:
    """All of a resize, in a thread beside the loop, which carries out what it gets `to_loop`. None:
    the caller left. Raises BadRequest, BadSetting, DoesNotFit, WindowInUse: the window stays."""
    message.change.check()
    before = engine.window
    prepared = engine.prepare_resize(message.change)
    counts: ResizeCounts | None = ResizeCounts()
    if prepared.window != before:
        counts = _by_loop(ResizeJob(message.call, prepared), used_cells, to_loop)
    if counts is None:
        return None
    return Resized(
        message.call, before, engine.window, engine.memory(), prepared.needed_bytes, engine.notes,
        counts,
    )  # fmt: skip


def _by_loop(
    job: ResizeJob, used_cells: int, to_loop: Callable[[ResizeJob], None]
) -> ResizeCounts | None:
    try:
        job.prepared.open(used_cells)
        to_loop(job)
        outcome = job.outcome.get()
    finally:
        job.prepared.release()
    if isinstance(outcome, OknoError):
        raise outcome
    return outcome


def carry_out(prepared: Prepared, scheduler: Scheduler, clock: Callable[[], float]) -> ResizeCounts:
    """Between two steps. Raises WindowInUse or DoesNotFit; the old window is still there then, and
    nothing is lost."""
    check_room(scheduler, prepared.window.ctx)
    parked, waited = len(scheduler.parked), scheduler.preemptions
    started_s = clock()
    if prepared.moves:
        make_fit(scheduler, prepared.limits)
    waited = scheduler.preemptions - waited
    held = moves(scheduler, prepared.limits) if prepared.moves else stays(scheduler)
    live = len(scheduler.live)
    switched = prepared.switch(scheduler.cache.take_operations(), held)
    if switched.refused is not None:
        if not switched.moved:
            adopt(scheduler, scheduler.limits, None)
        raise switched.refused
    kept = held if switched.moved else None
    adopt(scheduler, prepared.limits, kept, keeps_stored=prepared.fits_states)
    return ResizeCounts(
        pause_s=clock() - started_s,
        staged=switched.staged,
        state_bytes=switched.state_bytes,
        moved=len(scheduler.live),
        waiting_again=waited,
        recomputed=live - len(scheduler.live),
        parked_before=parked,
        parked=len(scheduler.parked),
    )


def changed_options(options: WorkerOptions, window: Window, change: WindowChange) -> WorkerOptions:
    """What a worker would be asked for, to open `window` with `change`."""
    pool = change.kv_pool
    follows = window.kv_pool_tokens == window.batch_size * window.ctx
    if pool is None and not follows:
        pool = window.kv_pool_tokens
    return replace(
        options,
        batch_size=_asked(change.batch_size, window.batch_size),
        ctx=_asked(change.ctx, window.ctx),
        kv_pool_tokens=pool if isinstance(pool, int) else None,
        kv_type=change.kv_type or window.kv_type,
    )


def _asked(value: int | str | None, now: int) -> int | None:
    """A number, or None for the planner to choose."""
    if value is None:
        return now
    return value if isinstance(value, int) else None
