"""The last steps: what each ran, how long its parts took, and what decided its rows.

The loop appends, between two engine calls, so a record is built of plain slots; whoever reads it
pays for the rest. Records name requests by id: neither texts nor clients are in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

KEPT_STEPS = 2048
KEPT_PIECES = 65_536  # of all kept steps together: about 8 MB; 2,048 steps of 32 sequences

Why = Literal[
    "all known", "prompt_rows", "row_budget", "pool", "checkpoint", "batch_size", "admission"
]


class Piece(msgspec.Struct, array_like=True, gc=False):
    """The rows of one sequence in a step, at positions start... decoding: only its newest token
    was left to compute. drafts: guessed tokens at the end of its rows, `accepted` of them right;
    by_model: a draft model guessed them, not the sequence's own text."""

    request: str
    slot: int
    start: int
    rows: int
    decoding: bool
    drafts: int = 0
    accepted: int = 0
    by_model: bool = False

    @property
    def source(self) -> str | None:
        """Of its drafts; None without any."""
        if not self.drafts:
            return None
        return "model" if self.by_model else "text"


class StepRecord(msgspec.Struct, array_like=True, gc=False):
    """One engine call. start_s: since the worker began. allowed: prompt rows that the step might
    take, None: no limit. operations: how many of each kind came before its rows. live, waiting,
    used_cells: with the step scheduled; preemptions: by this step. filler: rows beside those of
    its pieces that only made it shorter (Step.filler)."""

    step: int
    start_s: float
    why: Why
    allowed: int | None
    operations: dict[str, int]
    live: int
    waiting: int
    used_cells: int
    preemptions: int
    pieces: list[Piece]
    schedule_s: float = 0.0
    engine_s: float = 0.0
    sample_s: float = 0.0
    filler: int = 0

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @property
    def decode_rows(self) -> int:
        """Sequences that decode; their drafts are counted apart."""
        return sum(piece.decoding for piece in self.pieces)

    @property
    def draft_rows(self) -> int:
        return sum(piece.drafts for piece in self.pieces)

    @property
    def accepted(self) -> int:
        return sum(piece.accepted for piece in self.pieces)

    @property
    def prompt_rows(self) -> int:
        return self.rows - self.decode_rows - self.draft_rows

    @property
    def seconds(self) -> float:
        return self.schedule_s + self.engine_s + self.sample_s


class StepLog:
    """A ring of the last records, fewer than `steps` where they have more than `pieces` in all.
    One thread appends; any thread may read."""

    def __init__(self, steps: int = KEPT_STEPS, pieces: int = KEPT_PIECES) -> None:
        self._ring: list[StepRecord | None] = [None] * steps
        self._most_pieces = pieces
        self._pieces = 0
        self._oldest = 0
        self.count = 0  # steps so far; the newest record has this number

    def append(self, record: StepRecord) -> None:
        """The record of step `count + 1`."""
        if self.count - self._oldest == len(self._ring):
            self._forget_oldest()
        self._ring[self.count % len(self._ring)] = record
        self.count += 1
        self._pieces += len(record.pieces)
        while self._pieces > self._most_pieces and self._oldest < self.count - 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        at = self._oldest % len(self._ring)
        record = self._ring[at]
        assert record is not None
        self._pieces -= len(record.pieces)
        self._ring[at] = None
        self._oldest += 1

    def after(self, step: int) -> list[StepRecord]:
        """The kept records of steps after number `step`, oldest first."""
        found = [r for r in self._ring[:] if r is not None and r.step > step]
        return sorted(found, key=lambda record: record.step)

    def last(self, count: int) -> list[StepRecord]:
        """The newest `count` records, oldest first."""
        return self.after(self.count - count)


def reason(
    pieces: Sequence[Piece],
    wanting: int,
    *,
    row_budget: int,
    allowed: int | None,
    free_cells: int,
    live: int,
    waiting: int,
    batch_size: int,
) -> Why:
    """What kept a step from computing more rows of prompts. wanting: sequences of the step that
    get a token; allowed: as in StepRecord.

    `prompt_rows`: the rows that prompts may take beside others. `row_budget`: the rows of a step.
    `pool`: no free cells. `checkpoint`: a piece ends where a state is kept, for models that cannot
    be rolled back. `all known`: nothing was left to compute; then, when requests wait,
    `batch_size`: every slot is taken, or `admission`: there is no room in the pool for another
    prompt, or it waits for a prefix that a neighbour computes.
    """
    if wanting >= live:
        if not waiting:
            return "all known"
        return "batch_size" if live >= batch_size else "admission"
    decodes = sum(piece.decoding for piece in pieces)
    left = row_budget - decodes
    taken = sum(piece.rows for piece in pieces if not piece.decoding)
    if allowed is not None and allowed < left and taken >= allowed:
        return "prompt_rows"
    if taken >= left:
        return "row_budget"
    return "checkpoint" if free_cells else "pool"
