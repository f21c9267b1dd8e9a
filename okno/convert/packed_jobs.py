"""The work of carrying packed layers over: rows of a layer, which is read once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock

from okno.convert.checkpoint import Checkpoint
from okno.convert.packed_layer import pieces_of
from okno.convert.packed_targets import PackedPart, PackedTarget
from okno.convert.packing import PARTS
from okno.convert.repack import Choice, Sums, repack, report
from okno.convert.work import Bytes, Job


def packed_jobs(checkpoint: Checkpoint, target: PackedTarget) -> Iterator[Job]:
    """The rows of `target` in order, as its bytes. Its reports are complete after the last."""
    for part in target.parts:
        yield from _part_jobs(checkpoint, target, part)


def _part_jobs(checkpoint: Checkpoint, target: PackedTarget, part: PackedPart) -> Iterator[Job]:
    pieces = list(pieces_of(part.n_rows, part.n_columns))
    shared = _Shared(lambda: target.open(checkpoint, part), target, len(pieces))
    stored = (checkpoint.tensors.get(f"{part.layer}.{ending}") for ending in PARTS)
    source_bytes = sum(tensor.n_bytes for tensor in stored if tensor)

    def make(start: int, stop: int) -> Bytes:
        with shared.lock:
            choice = shared.choice()
        piece = repack(choice, start, stop)
        with shared.lock:
            shared.done(piece.sums)
        return piece.blocks.reshape(-1)

    for start, stop in pieces:
        part_bytes = source_bytes * stop // part.n_rows - source_bytes * start // part.n_rows
        yield Job(lambda a=start, b=stop: make(a, b), part_bytes)  # type: ignore[misc]


@dataclass(slots=True)
class _Shared:
    """A layer that is read by the first of its jobs and dropped by the last."""

    open: Callable[[], Choice]
    target: PackedTarget
    n_left: int
    lock: Lock = field(default_factory=Lock)
    opened: Choice | None = None
    sums: Sums = field(default_factory=Sums)

    def choice(self) -> Choice:
        if self.opened is None:
            self.opened = self.open()
        return self.opened

    def done(self, sums: Sums) -> None:
        self.sums, self.n_left = self.sums + sums, self.n_left - 1
        if self.n_left == 0 and self.opened is not None:
            told = report(self.opened, [self.sums])
            self.target.reports[told.name] = told
            self.opened = None
