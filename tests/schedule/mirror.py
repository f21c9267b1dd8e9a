"""A naive KV cache that executes Steps literally, and checks what the scheduler promises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from okno.schedule.resize import Moves
from okno.schedule.scheduler import Scheduler
from okno.schedule.step import (
    Copy,
    Forget,
    Limits,
    Operation,
    Pack,
    Restore,
    Save,
    Share,
    Step,
    Truncate,
)


@dataclass
class MirrorCache:
    """seq id -> the (cell, token) pairs it holds; a cell is an object, shared by copies."""

    limits: Limits
    held: dict[int, list[tuple[object, int]]] = field(default_factory=dict)
    host: dict[int, list[int]] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)  # first position of the last step's rows

    def execute(self, step: Step) -> None:
        self.apply(step.operations)
        for span in step.spans:
            row = self.held.setdefault(span.seq, [])
            assert span.start == len(row), "positions are contiguous"
            row.extend((object(), int(token)) for token in span.tokens)
        self.newest = {span.seq: span.start for span in step.spans}
        assert self.used <= self.limits.pool_cells

    def _can_cut(self, operation: Truncate) -> bool:
        """With windows: down to the first row of the last step, before another one."""
        if operation.length == 0 or self.limits.truncates:
            return True
        first = self.newest.get(operation.seq)
        return self.limits.slides and first is not None and operation.length > first

    def apply(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Copy):
                assert self.limits.copies
                assert not self.held.get(operation.dst), "a copy goes into an empty sequence"
                source = self.held[operation.src]
                assert len(source) >= operation.length
                self.held[operation.dst] = list(source[: operation.length])
            elif isinstance(operation, Truncate):
                assert self._can_cut(operation)
                del self.held[operation.seq][operation.length :]
            elif isinstance(operation, Save):
                assert operation.key not in self.host
                self.host[operation.key] = [token for _, token in self.held[operation.seq]]
            elif isinstance(operation, Restore):
                assert not self.held.get(operation.seq), "a state comes back to an empty sequence"
                self.held[operation.seq] = [(object(), t) for t in self.host[operation.key]]
            elif isinstance(operation, Pack):
                own = {id(cell) for cell, _ in self.held[operation.seq]}
                others = (row for seq, row in self.held.items() if seq != operation.seq)
                assert own.isdisjoint(id(cell) for row in others for cell, _ in row)
                self.held[operation.seq] = [(object(), t) for _, t in self.held[operation.seq]]
            elif isinstance(operation, Share):
                assert self.limits.copies
                assert self.limits.truncates
                source, row = self.held[operation.src], self.held[operation.dst]
                begin = source[: operation.length]
                assert len(begin) == operation.length
                assert [t for _, t in begin] == [t for _, t in row[: operation.length]]
                row[: operation.length] = begin
            elif isinstance(operation, Forget):
                del self.host[operation.key]
            else:
                assert_never(operation)
            assert self.used <= self.limits.pool_cells
            stored = sum(map(len, self.host.values()))
            assert stored <= self.limits.host_bytes or isinstance(operation, Forget)

    def resize(self, limits: Limits, moves: Moves | None) -> None:
        """Another cache, with what `moves` names of this one; None: an empty one. Host memory
        stays."""
        assert len({move.dst for move in moves or ()}) == len(moves or ())
        self.limits = limits
        self.held = {move.dst: self.held.get(move.src, []) for move in moves or ()}
        assert all(0 <= seq < limits.seq_ids for seq in self.held)
        assert self.used <= self.limits.pool_cells

    @property
    def used(self) -> int:
        return len({id(cell) for row in self.held.values() for cell, _ in row})

    def tokens(self, seq: int) -> list[int]:
        return [token for _, token in self.held.get(seq, [])]


def check_books(scheduler: Scheduler, cache: MirrorCache) -> None:
    """The scheduler's books agree with the cache, cell for cell."""
    assert scheduler.pool.used == cache.used
    for sequence in (*scheduler.live.values(), *scheduler.parked.values()):
        assert sequence.seq is not None
        held = cache.tokens(sequence.seq)
        assert len(held) == sequence.computed
        assert held[: len(sequence.known)] == list(sequence.known.view()[: sequence.computed])
    assert {s.host_key for s in scheduler.host.held.values()} == cache.host.keys()
    for sequence in scheduler.host.held.values():
        assert cache.host[sequence.host_key] == list(sequence.known.view()[: sequence.host_tokens])
    ids = [s.seq for s in (*scheduler.live.values(), *scheduler.parked.values())]
    assert len(ids) == len(set(ids)) <= scheduler.limits.seq_ids
    assert len(scheduler.live) <= scheduler.limits.batch_size


def next_token(known: list[int]) -> int:
    """What the mirror 'model' says: depends on every token before, so a wrong cache shows."""
    state = 17
    for token in known:
        state = (state * 31 + token + 7) % 10_007
    return state % 50
