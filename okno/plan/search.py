"""Which windows fit a machine, and the best of them for a goal.

For every batch size and KV type the context is tried on a fixed ladder (powers of two and the
steps between them), so more memory only ever adds windows to choose from. Needed memory is taken
to grow with ctx; what is picked has been computed itself, never inferred.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from okno.core.errors import BadSetting
from okno.core.header import ModelHeader
from okno.core.load import CELL_PAD, Load
from okno.core.machine import Machine
from okno.core.plan import MemoryPlan, PlannedLoad, SpeedPlan
from okno.core.window import MAX_BATCH_SIZE, KVType, Window
from okno.plan.attention_choice import settled
from okno.plan.goals import AUTO_KV_TYPES, SETTLES, Goal, key_of, miss, useful_ctx
from okno.plan.memory import MemoryModel, check_kv_type
from okno.plan.words import reasons

SpeedModel = Callable[[Load], SpeedPlan]

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FIRST_CTX = 512
STEPS_PER_DOUBLING = 8
MIB = 1 << 20
ROOM_BYTES = 64 * MIB
ROOM_SHARE = 0.02
MOST_ROOM_BYTES = 512 * MIB
LOAD = Load(Window(1, FIRST_CTX, FIRST_CTX))


@dataclass(frozen=True, slots=True)
class Plan:
    """What plan_windows found. loads: the grid of the KV types that were looked at, in order of KV
    type, batch size and ctx: what fits, and of each batch size the first that does not. pick: the
    best for the goal, None when nothing fits. why: sentences with numbers. room_bytes: kept free
    for the system by what `comfortable` calls fitting; a pick without such room is `is_tight`.
    meets_limits: of the pick. n_tried: windows whose memory was computed.
    """

    goal: Goal
    loads: tuple[PlannedLoad, ...]
    pick: PlannedLoad | None
    why: tuple[str, ...]
    room_bytes: int
    is_tight: bool = False
    meets_limits: bool = True
    n_tried: int = 0

    def comfortable(self, planned: PlannedLoad) -> bool:
        """It fits and leaves the system its room."""
        return fits(planned.memory, self.room_bytes)


def plan_windows(
    header: ModelHeader,
    machine: Machine,
    memory: MemoryModel,
    speed: SpeedModel | None,
    goal: Goal,
    *,
    template: Load = LOAD,
) -> Plan:
    """The grid of windows of a model on a machine, and the best one for `goal`.

    memory: bytes of a load on this machine, growing with batch size and ctx. speed None: nothing
    is known of speed, and limits cannot count. template: everything of the load that is not
    searched (step tokens, mmap, GPU layers); its flash attention `auto` becomes `off` in windows
    that do better without.

    Rule of fitting: each device has room for its part, the 90 % margin of the prediction, and
    room_bytes. Where only less is left, windows that fit without that room are allowed.
    """
    room_bytes = system_room_bytes(machine)
    search = _Search(header, memory, speed, goal, template, room_bytes)
    fitting = search.fitting(room_bytes)
    is_tight = not fitting
    if is_tight:
        fitting = search.fitting(0)
    pick = max(fitting, key=key_of(goal, search.ctx_train), default=None)
    return Plan(
        goal, tuple(search.grid), pick, reasons(pick, fitting, goal, search.ctx_train), room_bytes,
        is_tight=is_tight and pick is not None,
        meets_limits=pick is not None and miss(pick.speed, goal).none,
        n_tried=len(search.found),
    )  # fmt: skip


def fits(memory: MemoryPlan, room_bytes: int = 0) -> bool:
    """Each device has room for its part, the margin, and on the CPU `room_bytes` more."""
    return not memory.over_bytes(room_bytes)


def system_room_bytes(machine: Machine) -> int:
    """Main memory left to others: 64 MiB inside a cgroup or a given limit; on a whole machine
    2 % of it, 64 to 512 MiB, because the rest of the system grows too."""
    if machine.ram.bound_by != "machine":
        return ROOM_BYTES
    return min(MOST_ROOM_BYTES, max(ROOM_BYTES, int(machine.ram.total_bytes * ROOM_SHARE)))


def usable_kv_types(header: ModelHeader, template: Load) -> tuple[KVType, ...]:
    """Of the types okno chooses from, those the engine takes for this model loaded this way."""
    loads = (window_of(template, 1, FIRST_CTX, kv_type) for kv_type in AUTO_KV_TYPES)
    return tuple(load.window.kv_type for load in loads if takes_kv_type(header, load))


def takes_kv_type(header: ModelHeader, load: Load) -> bool:
    """The engine opens a cache of the load's type for this model."""
    try:
        check_kv_type(header, load)
    except BadSetting:
        return False
    return True


def ctx_ladder(ctx_train: int) -> tuple[int, ...]:
    """Every ctx that may be picked: eight steps per doubling from 512, multiples of 256, and the
    trained context itself."""
    ctx_train = max(1, ctx_train)
    rungs = {ctx_train}
    start = FIRST_CTX
    while start <= ctx_train:
        step = max(CELL_PAD, start // STEPS_PER_DOUBLING)
        rungs.update(rung for rung in range(start, 2 * start, step) if rung <= ctx_train)
        start *= 2
    return tuple(sorted(rungs))


def grid_ctxs(ctx_train: int) -> tuple[int, ...]:
    """The rungs a table shows: powers of two, and the trained context."""
    powers = [FIRST_CTX << shift for shift in range(32) if FIRST_CTX << shift <= ctx_train]
    return tuple(sorted({*powers, max(1, ctx_train)}))


def window_of(template: Load, batch_size: int, ctx: int, kv_type: KVType) -> Load:
    """`template` with this window; its pool holds batch_size x ctx tokens."""
    step_tokens = max(template.window.step_tokens, batch_size)
    window = Window(batch_size, ctx, batch_size * ctx, kv_type, step_tokens)
    return replace(template, window=window)


def widest_ctx(
    memory: Callable[[Load], MemoryPlan], load: Load, rungs: Sequence[int], room_bytes: int = 0
) -> int | None:
    """The largest of the ascending `rungs` with which `load` fits, its pool widened with it."""

    def is_over(ctx: int) -> bool:
        window = load.window
        wider = window_of(load, window.batch_size, ctx, window.kv_type)
        return not fits(memory(wider), room_bytes)

    n_fitting = bisect_right(rungs, 0, key=is_over)
    return rungs[n_fitting - 1] if n_fitting else None


def largest_batch(
    memory: Callable[[Load], MemoryPlan], load: Load, room_bytes: int = 0
) -> int | None:
    """The most sequences with which `load` fits at its ctx, its pool widened with them."""

    def is_over(batch_size: int) -> bool:
        window = load.window
        larger = window_of(load, batch_size, window.ctx, window.kv_type)
        return not fits(memory(larger), room_bytes)

    n_fitting = bisect_right(range(1, MAX_BATCH_SIZE + 1), 0, key=is_over)
    return n_fitting or None


@dataclass(slots=True)
class _Search:
    """One call's windows, each computed once."""

    header: ModelHeader
    memory: MemoryModel
    speed: SpeedModel | None
    goal: Goal
    template: Load
    room_bytes: int
    found: dict[Load, MemoryPlan] = field(default_factory=dict)
    rows: dict[tuple[KVType, int], list[PlannedLoad]] = field(default_factory=dict)

    @property
    def ctx_train(self) -> int:
        return self.header.ctx_train or FIRST_CTX

    def fitting(self, room_bytes: int) -> list[PlannedLoad]:
        """What fits, by KV type. Of types that may be chosen freely, those with fewer bits are
        looked at only while no window is wide enough: they could not be picked."""
        found: list[PlannedLoad] = []
        useful = useful_ctx(self.goal, self.ctx_train)
        settles = AUTO_KV_TYPES.index(SETTLES[self.goal.prefer])
        for kv_type in self.goal.kv_types or usable_kv_types(self.header, self.template):
            found += self._fitting_of(kv_type, room_bytes)
            enough = any(planned.load.window.ctx >= useful for planned in found)
            settled = AUTO_KV_TYPES.index(kv_type) >= settles if not self.goal.kv_types else False
            if enough and settled:
                break
        return found

    def _fitting_of(self, kv_type: KVType, room_bytes: int) -> Iterator[PlannedLoad]:
        """Windows of the table, and for each batch size the widest rung."""
        for batch_size in (self.goal.batch_size,) if self.goal.batch_size else BATCHES:
            row = [p for p in self._row(batch_size, kv_type) if fits(p.memory, room_bytes)]
            yield from row
            yield from self._widest(batch_size, kv_type, row, room_bytes)
            if not row:
                return  # nor will a larger batch

    def _widest(
        self, batch_size: int, kv_type: KVType, row: list[PlannedLoad], room_bytes: int
    ) -> Iterator[PlannedLoad]:
        """The widest rung above the last of the fitting `row`."""
        if self.goal.ctx:
            return
        above = row[-1].load.window.ctx if row else 0
        below = next((ctx for ctx in self._grid_ctxs() if ctx > above), above)
        rungs = [rung for rung in ctx_ladder(self.ctx_train) if above < rung < below]
        load = window_of(self.template, batch_size, 0, kv_type)
        ctx = widest_ctx(self._memory, load, rungs, room_bytes)
        if ctx:
            yield self._planned(batch_size, ctx, kv_type)

    def _row(self, batch_size: int, kv_type: KVType) -> list[PlannedLoad]:
        """The windows of the table up to the first that does not fit, remembered in its order."""
        if (kv_type, batch_size) not in self.rows:
            row = self.rows[kv_type, batch_size] = []
            for ctx in (self.goal.ctx,) if self.goal.ctx else self._grid_ctxs():
                row.append(self._planned(batch_size, ctx, kv_type))
                if not row[-1].memory.fits:
                    break
        return self.rows[kv_type, batch_size]

    @property
    def grid(self) -> Iterator[PlannedLoad]:
        for row in self.rows.values():
            yield from row

    def _grid_ctxs(self) -> tuple[int, ...]:
        depth_ctx = min(self.goal.depth_ctx or self.ctx_train, self.ctx_train)
        return tuple(sorted({*grid_ctxs(self.ctx_train), depth_ctx}))

    def _planned(self, batch_size: int, ctx: int, kv_type: KVType) -> PlannedLoad:
        load = window_of(self.template, batch_size, ctx, kv_type)
        memory = self._memory(load)
        if self.speed is None or not memory.fits:
            return PlannedLoad(load, memory, None)
        planned = PlannedLoad(load, memory, self.speed(load))
        return settled(self.header, planned, self._memory, self.speed, self.room_bytes)

    def _memory(self, load: Load) -> MemoryPlan:
        if load not in self.found:
            self.found[load] = self.memory.memory(load)
        return self.found[load]
