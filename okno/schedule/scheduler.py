"""The scheduler: which tokens run in the next step, and in which cells.

There are no prefill and decode phases. A sequence has `known` and `computed` tokens, and each step
lets some sequences catch up under one budget of rows: first those that decode (one row each), then
pieces of prompts, oldest first. `schedule()` decides and returns a Step; the engine executes it;
`update()` takes what was sampled. Both are pure: no clock, no engine, no I/O.

Finished sequences stay parked in free cells, so that the next turn of a conversation, another
choice of the same prompt, or another user with the same system prompt starts from their prefix.
Parked cells are given up, least recently used first, whenever a live sequence needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from okno.schedule.fair import FairQueue
from okno.schedule.pool import KVPool
from okno.schedule.sequence import Sequence, common_prefix

MIN_SHARED_TOKENS = 8  # a shorter common prefix is not worth an engine operation


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


Operation = Copy | Truncate


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one sequence: `tokens` at positions start... logits: of so many rows at its end they
    are wanted: 0 while its prompt goes on, 1 for the last known token, and 1 per draft after it."""

    id: str
    seq: int
    start: int
    tokens: NDArray[np.int32]
    logits: int

    @property
    def drafts(self) -> NDArray[np.int32]:
        """Guessed tokens at its end, kept only as far as sampling agrees."""
        return self.tokens[len(self.tokens) - max(0, self.logits - 1) :]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a span with logits gave: its drafts as far as they were right, then one token more.
    ended: the last of them ends the sequence."""

    tokens: tuple[int, ...]
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One engine call: first the operations, in order, then all spans in one batch. Without
    spans there is nothing to do."""

    operations: tuple[Operation, ...]
    spans: tuple[Span, ...]

    @property
    def rows(self) -> int:
        return sum(len(span.tokens) for span in self.spans)

    @property
    def decodes(self) -> int:
        """Sequences that get a token."""
        return sum(span.logits > 0 for span in self.spans)

    @property
    def outputs(self) -> int:
        """Rows with logits: one per decode and one per draft."""
        return sum(span.logits for span in self.spans)


@dataclass(frozen=True, slots=True)
class Limits:
    """batch_size: live sequences at most. seq_ids: engine sequences (live and parked).
    pool_cells: KV cells. copies: prefixes can be shared between sequences (unified pool).
    truncates: a sequence can be rolled back to any length (plain attention). parks: finished
    sequences are kept for later prefixes. outputs: rows with logits in one step at most
    (never less than batch_size); None: as many as there are rows."""

    batch_size: int
    seq_ids: int
    pool_cells: int
    copies: bool = True
    truncates: bool = True
    parks: bool = True
    outputs: int | None = None


@dataclass(slots=True)
class _Reuse:
    donor: Sequence
    length: int
    takes_over: bool


@dataclass(slots=True)
class Scheduler:
    """State: a fair queue of waiting sequences, the live ones, and the parked ones (LRU)."""

    limits: Limits
    waiting: FairQueue = field(default_factory=FairQueue)
    live: dict[str, Sequence] = field(default_factory=dict)
    parked: dict[int, Sequence] = field(default_factory=dict)
    pool: KVPool = field(init=False)
    preemptions: int = 0
    _free_seqs: list[int] = field(init=False)
    _operations: list[Operation] = field(default_factory=list)
    _arrivals: int = 0

    def __post_init__(self) -> None:
        assert self.limits.batch_size <= self.limits.seq_ids
        self.pool = KVPool(self.limits.pool_cells)
        self._free_seqs = list(range(self.limits.seq_ids - 1, -1, -1))

    # Arrivals and departures -----------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        """A new sequence waits. Its max_tokens must fit the pool and exceed what is known."""
        assert len(sequence.known) < sequence.max_tokens <= self.limits.pool_cells
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self.waiting.add(sequence)

    def cancel(self, id: str) -> None:
        """Forget a sequence in any state; its computed prefix stays parked. Unknown: ignored."""
        if id in self.live:
            self._park(self.live.pop(id))
            return
        for sequence in self.waiting:
            if sequence.id == id:
                self.waiting.remove(sequence)
                return

    def position(self, id: str) -> int:
        """How many waiting sequences would be admitted before `id` (0: next)."""
        for place, sequence in enumerate(self.waiting):
            if sequence.id == id:
                return place
        return 0

    # One step ----------------------------------------------------------------------------------

    def schedule(
        self,
        row_budget: int,
        prompt_rows: int | None = None,
        drafts: Mapping[str, Tokens[int]] | None = None,
    ) -> Step:
        """The next step, of at most `row_budget` rows (never less than one per decoding sequence,
        however small the budget), of which prompt pieces take at most `prompt_rows`. drafts:
        guessed next tokens of decoding sequences; they run in rows and cells that are free anyway,
        if sequences can be cut back."""
        self._admit()
        spans = self._decode_spans()
        left = row_budget - len(spans)
        if prompt_rows is not None:
            left = min(left, prompt_rows)
        prompts = self._prompt_spans(left, must=not spans)
        if drafts and self.limits.truncates:
            spans = self._with_drafts(spans, drafts, self._free_rows(row_budget, spans + prompts))
        spans += prompts
        if not spans:
            return Step((), ())  # the operations wait for the next step that runs
        operations, self._operations = tuple(self._operations), []
        return Step(operations, tuple(spans))

    def update(self, step: Step, sampled: Mapping[str, Sampled]) -> None:
        """Book the outcome. sampled: of each span with logits. A sequence missing from it was
        cancelled meanwhile, or failed and is to be cancelled."""
        for span in step.spans:
            sequence = self.live.get(span.id)
            if sequence is None or not span.logits:
                continue
            found = sampled.get(span.id, Sampled(()))
            right = max(0, len(found.tokens) - 1)
            self._cut(sequence, sequence.computed - (len(span.drafts) - right))
            sequence.known.extend(np.array(found.tokens, dtype=np.int32))
            self.waiting.charge(sequence.client, len(found.tokens))
            if found.ended:
                self._park(self.live.pop(span.id))

    def _free_rows(self, row_budget: int, spans: Tokens[Span]) -> int:
        """Rows that drafts may have beside `spans`; each of them gives logits."""
        free = row_budget - sum(len(span.tokens) for span in spans)
        if self.limits.outputs is None:
            return free
        return min(free, self.limits.outputs - sum(span.logits for span in spans))

    def _with_drafts(
        self, spans: Tokens[Span], drafts: Mapping[str, Tokens[int]], left: int
    ) -> list[Span]:
        """Decoding `spans`, those with a guess longer by it, as far as rows and cells are free and
        an answer may still grow."""
        longer: list[Span] = []
        for span in spans:
            sequence = self.live[span.id]
            room = sequence.max_tokens - len(sequence.known) - 1
            count = min(len(drafts.get(span.id, ())), left, self.pool.free, room)
            if count > 0:
                guess = np.array(drafts[span.id][:count], dtype=np.int32)
                sequence.cells.extend(self.pool.allocate(count))
                left -= count
                tokens = np.concatenate([span.tokens, guess])
                span = replace(span, tokens=tokens, logits=1 + count)
            longer.append(span)
        return longer

    # Admission -----------------------------------------------------------------------------

    def _admit(self) -> None:
        slots = self.limits.batch_size - len(self.live)
        if slots <= 0 or not len(self.waiting):
            return
        computing = self._computing_prompts()
        started: list[Sequence] = []
        skipped = 0
        for sequence in self.waiting:
            reuse = self._best_reuse(sequence)
            if self._worth_waiting(sequence, reuse, computing):
                skipped += 1
                if skipped >= self.limits.batch_size:
                    break
                continue
            if not self._has_room(sequence, reuse):
                break
            self._start(sequence, reuse)
            started.append(sequence)
            computing.append(sequence)
            if len(started) == slots:
                break
        for sequence in started:
            self.waiting.remove(sequence)
            self._charge_start(sequence)

    def _start(self, sequence: Sequence, reuse: _Reuse | None) -> None:
        self.live[sequence.id] = sequence
        if reuse is not None and reuse.takes_over:
            self._take_over(sequence, reuse)
        else:
            # The donor is touched first, so that making room does not evict what is shared.
            if reuse is not None:
                self._touch(reuse.donor)
            sequence.seq = self._claim_seq(keep=reuse.donor if reuse else None)
            if reuse is not None:
                self._copy(sequence, reuse)

    def _charge_start(self, sequence: Sequence) -> None:
        """The client pays for what is computed anew, once: not again after a preemption."""
        if not sequence.started:
            sequence.started = True
            sequence.cached = min(sequence.computed, sequence.prompt_tokens)
            self.waiting.charge(sequence.client, sequence.remaining)

    def _best_reuse(self, sequence: Sequence) -> _Reuse | None:
        """The longest computed prefix to start from, if any; at least one known token is left
        to compute, because its logits are needed."""
        known = sequence.known.view()[:-1]
        best: _Reuse | None = None
        can_copy = self.limits.copies and (bool(self._free_seqs) or len(self.parked) > 1)
        for donor in (*self.parked.values(), *self.live.values()):
            parked = donor.id not in self.live
            length = common_prefix(known, donor.known.view()[: donor.computed])
            if length < MIN_SHARED_TOKENS or (best is not None and length <= best.length):
                continue
            whole = length == donor.computed
            takes_over = parked and (whole or not can_copy)
            if (whole and takes_over) or (self.limits.truncates and (takes_over or can_copy)):
                best = _Reuse(donor, length, takes_over)
        return best

    def _computing_prompts(self) -> list[Sequence]:
        """Live sequences whose prompt is not computed yet, if prefixes can be shared at all."""
        if not (self.limits.copies and self.limits.truncates and self.limits.parks):
            return []
        return [s for s in self.live.values() if s.computed < s.prompt_tokens]

    def _worth_waiting(
        self, sequence: Sequence, reuse: _Reuse | None, computing: list[Sequence]
    ) -> bool:
        """A live sequence is just computing a longer common prefix: waiting for it costs less
        than computing it beside it."""
        have = reuse.length if reuse else 0
        known = sequence.known.view()[:-1]
        return any(
            common_prefix(known, donor.known.view()[: donor.prompt_tokens])
            > max(have, donor.computed) + MIN_SHARED_TOKENS
            for donor in computing
        )

    def _has_room(self, sequence: Sequence, reuse: _Reuse | None) -> bool:
        """The whole known part fits beside the live sequences and what they still compute."""
        shared = reuse.length if reuse else 0
        held = [s.cells.view() for s in self.live.values()]
        if reuse is not None:
            held.append(reuse.donor.cells.view()[:shared])
        owed = sum(s.remaining for s in self.live.values()) + len(sequence.known) - shared
        return not self.live or owed <= self.pool.size - self.pool.distinct(held)

    # Engine sequences ------------------------------------------------------------------------

    def _claim_seq(self, keep: Sequence | None) -> int:
        if not self._free_seqs:
            self._evict(keep)
        return self._free_seqs.pop()

    def _take_over(self, sequence: Sequence, reuse: _Reuse) -> None:
        donor = reuse.donor
        assert donor.seq is not None
        del self.parked[donor.seq]
        self._cut(donor, reuse.length)
        sequence.seq, sequence.cells = donor.seq, donor.cells

    def _copy(self, sequence: Sequence, reuse: _Reuse) -> None:
        assert reuse.donor.seq is not None
        assert sequence.seq is not None
        cells = reuse.donor.cells.view()[: reuse.length]
        self.pool.share(cells)
        sequence.cells.extend(cells)
        self._operations.append(Copy(reuse.donor.seq, sequence.seq, reuse.length))

    def _park(self, sequence: Sequence) -> None:
        """Keep what is computed for a later prefix, or drop it when it is not worth keeping."""
        if sequence.seq is None:
            return
        self._cut(sequence, len(sequence.known))  # drafts of a step it was cancelled in
        if not self.limits.parks or sequence.computed < MIN_SHARED_TOKENS:
            self._drop(sequence)
            return
        sequence.known.truncate(sequence.computed)
        self._touch(sequence)
        self.parked[sequence.seq] = sequence

    def _cut(self, sequence: Sequence, length: int) -> None:
        """Keep the first `length` tokens of what is computed."""
        assert sequence.seq is not None
        if length < sequence.computed:
            self._operations.append(Truncate(sequence.seq, length))
            self.pool.release(sequence.cells.view()[length:])
            sequence.cells.truncate(length)

    def _touch(self, sequence: Sequence) -> None:
        self._arrivals += 1
        sequence.parked_at = self._arrivals

    def _drop(self, sequence: Sequence) -> None:
        assert sequence.seq is not None
        if sequence.computed:
            self._operations.append(Truncate(sequence.seq, 0))
        self.pool.release(sequence.cells.view())
        sequence.cells.truncate(0)
        self._free_seqs.append(sequence.seq)
        sequence.seq = None

    def _evict(self, keep: Sequence | None = None) -> bool:
        """Drop the least recently used parked sequence; False when there is none."""
        victims = [p for p in self.parked.values() if p is not keep]
        if not victims:
            return False
        victim = min(victims, key=lambda s: s.parked_at)
        assert victim.seq is not None
        del self.parked[victim.seq]
        self._drop(victim)
        return True

    # Cells ---------------------------------------------------------------------------------

    def _decode_spans(self) -> list[Span]:
        spans = []
        for sequence in sorted(self.live.values(), key=lambda s: s.arrival):
            if (
                sequence.id in self.live
                and sequence.decoding
                and self._make_room(1, for_sequence=sequence)
            ):
                spans.append(self._span(sequence, 1))
        return spans

    def _prompt_spans(self, left: int, *, must: bool) -> list[Span]:
        """Pieces of prompts, oldest first. must: nothing else runs in this step, so the oldest
        gets at least one row, whatever that costs the others."""
        spans: list[Span] = []
        for sequence in sorted(self.live.values(), key=lambda s: s.arrival):
            if sequence.id not in self.live or sequence.decoding or sequence.remaining == 0:
                continue
            must_run = must and not spans
            if must_run and not self._make_room(1, for_sequence=sequence):
                continue
            wanted = min(sequence.remaining, max(left, 1 if must_run else 0))
            rows = min(wanted, self._spare_cells(wanted))
            if rows <= 0:
                break
            spans.append(self._span(sequence, rows))
            left -= rows
        return spans

    def _spare_cells(self, wanted: int) -> int:
        """Free cells, after evicting parked sequences as far as `wanted` asks for."""
        while self.pool.free < wanted and self._evict():
            pass
        return self.pool.free

    def _span(self, sequence: Sequence, rows: int) -> Span:
        assert sequence.seq is not None
        start = sequence.computed
        sequence.cells.extend(self.pool.allocate(rows))
        tokens = sequence.known.view()[start : start + rows].copy()
        return Span(sequence.id, sequence.seq, start, tokens, int(sequence.remaining == 0))

    def _make_room(self, cells: int, *, for_sequence: Sequence) -> bool:
        """Free at least `cells`: parked sequences go first, then the youngest live one is sent
        back to wait (its tokens are kept and computed again). The oldest gets room, because one
        sequence never exceeds the pool. False when `for_sequence` itself had to go."""
        while self.pool.free < cells:
            if self._evict():
                continue
            youngest = max(self.live.values(), key=lambda s: s.arrival)
            if youngest is for_sequence:
                self._preempt(for_sequence)
                return False
            self._preempt(youngest)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        del self.live[sequence.id]
        self._drop(sequence)
        self.waiting.add_resumed(sequence)
