"""What the scheduler hands to the engine, and what it gets back: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_TOKENS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Copy:
    """Sequence `dst` (empty) shares the first `length` tokens of `src`; cells are not copied."""

    src: int
    dst: int
    length: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Keep the first `length` tokens of `seq`; 0 drops it whole."""

    seq: int
    length: int


@dataclass(frozen=True, slots=True)
class Save:
    """Copy the state of `seq` to host memory, under `key`; it stays in its cells too."""

    seq: int
    key: int


@dataclass(frozen=True, slots=True)
class Restore:
    """`seq` (empty) gets the state of `key`, in cells of its own; host memory keeps it."""

    key: int
    seq: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Free the host memory of `key`."""

    key: int


@dataclass(frozen=True, slots=True)
class Pack:
    """The state of `seq`, which shares no cell, moves to the lowest free cells."""

    seq: int


@dataclass(frozen=True, slots=True)
class Share:
    """`dst`, which begins with the same `length` tokens as `src`, gives up its own cells of them
    and shares those of `src`."""

    src: int
    dst: int
    length: int


Operation = Copy | Truncate | Save | Restore | Forget | Pack | Share


class Span(NamedTuple):
    """Rows of one sequence: `tokens` at positions start... logits: wanted of so many rows at its
    end: 0 while its prompt goes on, 1 for the last known token, 1 more per draft after it."""

    id: str
    seq: int
    start: int
    tokens: NDArray[np.int32]
    logits: int

    @property
    def drafts(self) -> NDArray[np.int32]:
        """Guessed tokens at its end, kept only as far as sampling agrees."""
        return self.tokens[len(self.tokens) - self.logits + 1 :] if self.logits > 1 else NO_TOKENS


class Sampled(NamedTuple):
    """What a span with logits gave: its drafts as far as they were right, then one token more.
    ended: the last of them ends the sequence; without tokens: it failed."""

    tokens: tuple[int, ...]
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One engine call: first the operations, in order, then all spans in one batch. Without
    spans there is nothing to do. filler: rows beside, in free cells, that only make the step
    shorter; nothing of them stays."""

    operations: tuple[Operation, ...]
    spans: tuple[Span, ...]
    filler: int = 0

    @property
    def rows(self) -> int:
        """Of the spans."""
        return sum([len(span.tokens) for span in self.spans])

    @property
    def decodes(self) -> int:
        """Sequences that get a token."""
        return sum([span.logits > 0 for span in self.spans])

    @property
    def outputs(self) -> int:
        """Rows with logits: one per decode and one per draft."""
        return sum([span.logits for span in self.spans])


@dataclass(frozen=True, slots=True)
class Limits:
    """batch_size: live sequences at most. seq_ids: engine sequences (live and parked).
    pool_cells: KV cells. copies: prefixes can be shared between sequences (unified pool).
    truncates: a sequence can be rolled back to any length (plain attention). slides: not to any,
    but by the drafts of its last step (sliding windows: those pushed out what nobody sees).
    parks: finished sequences are kept for later prefixes. host_bytes: of host memory for states of
    sequences, each of cell_bytes per token and state_bytes beside. outputs: rows with logits in one
    step at most (never less than batch_size); None: as many as there are rows. walk_cells: every
    step walks the cells of all sequences up to the highest used one, in multiples of so many; 0:
    each only its own. filler_seq: an engine sequence beyond seq_ids for Step.filler; None: there
    can be none."""

    batch_size: int
    seq_ids: int
    pool_cells: int
    copies: bool = True
    truncates: bool = True
    parks: bool = True
    host_bytes: int = 0
    cell_bytes: int = 1
    state_bytes: int = 0
    outputs: int | None = None
    walk_cells: int = 0
    filler_seq: int | None = None
    slides: bool = False

    @property
    def takes_back(self) -> bool:
        """Wrong drafts can be taken back, before the next step."""
        return self.truncates or self.slides

    def stored_bytes(self, tokens: int) -> int:
        """Of host memory for the state of a sequence with so many tokens."""
        return self.state_bytes + tokens * self.cell_bytes
