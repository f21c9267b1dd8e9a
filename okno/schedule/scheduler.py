"""The scheduler: which tokens run in the next step, and in which cells.

There are no prefill and decode phases. A sequence has `known` and `computed` tokens, and each step
lets some sequences catch up under one budget of rows: first those that decode (one row each), then
pieces of prompts, the one that is due first, then guesses at what comes next. `schedule()` decides
and returns a Step; the engine executes it; `update()` takes what was sampled. Both are pure: no
clock, no engine, no I/O. What is computed, parked and stored: cache.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Tokens
from itertools import islice
from operator import attrgetter

import numpy as np

from okno.schedule.cache import MIN_SHARED_TOKENS, Cache, Reuse
from okno.schedule.cost import Ahead
from okno.schedule.fair import FairQueue, due_at
from okno.schedule.host import HostStore
from okno.schedule.pool import KVPool
from okno.schedule.sequence import Sequence, common_prefix
from okno.schedule.shares import Shares, Want
from okno.schedule.step import Limits, Sampled, Span, Step

NOTHING = Sampled(())


class Scheduler:
    """State: a fair queue of waiting sequences, the live ones, and the cache."""

    def __init__(self, limits: Limits) -> None:
        assert limits.batch_size <= limits.seq_ids
        self.limits = limits
        self.waiting = FairQueue()
        self.live: dict[str, Sequence] = {}
        self.cache = Cache(limits)
        self.preemptions = 0
        self._prompt_shares = Shares()
        self._arrivals = 0
        self._worked = 0.0  # rows of all steps

    @property
    def pool(self) -> KVPool:
        return self.cache.pool

    @property
    def parked(self) -> dict[int, Sequence]:
        return self.cache.parked

    @property
    def host(self) -> HostStore:
        return self.cache.host

    # Arrivals and departures -----------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        """A new sequence waits. Its max_tokens must fit the pool and exceed what is known."""
        assert len(sequence.known) < sequence.max_tokens <= self.limits.pool_cells
        self._arrivals += 1
        sequence.arrival = self._arrivals
        sequence.due = due_at(sequence, self._worked)
        self.waiting.add(sequence)

    def cancel(self, id: str) -> None:
        """Forget a sequence in any state; its computed prefix stays parked. Unknown: ignored."""
        if id in self.live:
            self.cache.park(self.live.pop(id))
            return
        sequence = self.waiting.get(id)
        if sequence is not None:
            self.waiting.remove(sequence)

    def position(self, id: str) -> int:
        """How many waiting sequences would be admitted before `id` (0: next)."""
        sequence = self.waiting.get(id)
        return 0 if sequence is None else self.waiting.place(sequence)

    # One step ----------------------------------------------------------------------------------

    def schedule(
        self,
        row_budget: int,
        prompt_rows: Callable[[Ahead], int] | None = None,
        drafts: Mapping[str, Tokens[int]] | None = None,
    ) -> Step:
        """The next step, of at most `row_budget` rows (never less than one per decoding sequence,
        however small the budget), of which prompt pieces take at most what prompt_rows says to
        the step ahead. drafts: guessed next tokens of decoding sequences; they run in rows and
        cells that are free anyway, if they can be taken back."""
        self._admit()
        decoding = [s for s in self.live.values() if s.decoding]
        mixed = len(decoding) < len(self.live)
        ahead = self.ahead() if mixed and prompt_rows is not None else None
        decodes = self._decode_spans(decoding)
        left = row_budget - len(decodes)
        if prompt_rows is not None and ahead is not None and ahead.prompt_tokens:
            left = min(left, prompt_rows(ahead))
        prompts = self._prompt_spans(left, must=not decodes) if mixed else []
        if drafts and self.limits.takes_back:
            free = self._free_rows(row_budget, [*decodes, *prompts])
            decodes = self._with_drafts(decodes, drafts, free)
        if not decodes and not prompts:
            return Step((), ())  # the operations wait for the next step that runs
        step = Step(self.cache.take_operations(), (*decodes, *prompts))
        self._worked += step.rows
        return step

    def update(self, step: Step, sampled: Mapping[str, Sampled]) -> None:
        """Book the outcome. sampled: of each span with logits. A sequence missing from it was
        cancelled meanwhile."""
        keeps = self.cache.keeps_checkpoints
        for span in step.spans:
            sequence = self.live.get(span.id)
            if sequence is None:
                continue
            if keeps:
                self.cache.checkpoint(sequence)
            if span.logits:
                self._take(sequence, span, sampled.get(span.id, NOTHING))

    def ahead(self) -> Ahead:
        """What the live sequences bring into the next step, before its rows of prompts are
        chosen."""
        decodes = decode_cells = 0
        prompts = []
        for sequence in self.live.values():
            if sequence.decoding:
                decodes += 1
                decode_cells += sequence.computed
            elif sequence.remaining > 0:
                prompts.append(sequence)
        first = min(prompts, key=_turn, default=None)
        last = max(prompts, key=_turn, default=None)
        return Ahead(
            decodes=decodes,
            decode_cells=decode_cells,
            prompt_depth=first.computed if first else 0,
            prompt_tokens=sum(s.remaining for s in prompts),
            prompt_end=len(last.known) if last else 0,
            prompts=len(prompts),
            used_cells=self.pool.end,
        )

    def _take(self, sequence: Sequence, span: Span, found: Sampled) -> None:
        """The tokens that a span gave; drafts beyond them were wrong."""
        if span.logits > 1:
            wrong = span.logits - max(1, len(found.tokens))
            self.cache.cut(sequence, sequence.computed - wrong)
        for token in found.tokens:
            sequence.known.append(token)
        self.waiting.charge(sequence.client, len(found.tokens) / sequence.weight)
        if found.ended:
            self.cache.park(self.live.pop(span.id))

    # Admission -----------------------------------------------------------------------------

    def _admit(self) -> None:
        if not len(self.waiting):
            return
        slots = self.limits.batch_size - len(self.live)
        if slots > 0:
            self._start_some(slots)
        else:
            self._exchange()

    def _exchange(self) -> None:
        """With no slot free, the first in the queue that may takes one from another. A step looks
        at as many as there are slots: hundreds may wait, and none of them fit the pool."""
        counts = Counter([s.client for s in self.live.values()])
        most, least = max(counts.values()), min([s.weight for s in self.live.values()])
        if most < 2 and least >= self.waiting.heaviest:
            return
        may = (
            (sequence, victim) for sequence in self.waiting.firsts()
            if least < sequence.weight or most > counts[sequence.client] + 1
            if (victim := self._victim(sequence, counts)) is not None
        )  # fmt: skip
        for sequence, victim in islice(may, self.limits.batch_size):
            if self._starts_without(victim, sequence):
                self._give_slot(sequence, victim)
                return

    def _give_slot(self, sequence: Sequence, victim: Sequence) -> None:
        """`sequence` takes the place of `victim`, which waits from before it leaves the queue: an
        empty one would forget what each client was served."""
        del self.live[victim.id]
        self.cache.leave(victim)
        self._start(sequence, self.cache.best_reuse(sequence))
        self.waiting.add(victim)
        self.waiting.remove(sequence)
        self._charge_start(sequence)

    def _start(self, sequence: Sequence, reuse: Reuse | None) -> None:
        self.live[sequence.id] = sequence
        self.cache.start(sequence, reuse)

    def _start_some(self, slots: int) -> None:
        """Of those that wait, the first that can, at most so many."""
        computing = self._computing_prompts()
        started: list[Sequence] = []
        skipped = 0
        for sequence in self.waiting:
            reuse = self.cache.best_reuse(sequence)
            if self._worth_waiting(sequence, reuse, computing):
                skipped += 1
                if skipped >= self.limits.batch_size:
                    break
                continue
            if not self._has_room(sequence, reuse, self.live):
                break
            self._start(sequence, reuse)
            started.append(sequence)
            if self._shares:
                computing.append(sequence)
            if len(started) == slots:
                break
        for sequence in started:
            self.waiting.remove(sequence)
            self._charge_start(sequence)

    def _victim(self, head: Sequence, counts: Mapping[str, int]) -> Sequence | None:
        """Who gives `head` its slot: one of a client that has at least two more than its own, or of
        lower priority, the youngest of these. Its state is parked, and it goes back to its line.
        counts: live sequences by client."""
        victims = [
            s for s in self.live.values()
            if s.weight < head.weight
            or (counts[s.client] > counts[head.client] + 1 and s.weight == head.weight)
        ]  # fmt: skip
        return max(victims, key=lambda s: (-s.weight, counts[s.client], s.arrival), default=None)

    def _starts_without(self, victim: Sequence, head: Sequence) -> bool:
        """`head` could start at once if `victim` were not live."""
        others = {id: s for id, s in self.live.items() if s is not victim}
        reuse = self.cache.best_reuse(head)
        computing = [s for s in self._computing_prompts() if s is not victim]
        return self._has_room(head, reuse, others) and not self._worth_waiting(
            head, reuse, computing
        )

    def _charge_start(self, sequence: Sequence) -> None:
        """The client pays for what is computed anew, once: not again after a preemption."""
        if not sequence.started:
            sequence.started = True
            sequence.cached = min(sequence.computed, sequence.prompt_tokens)
            self.waiting.charge(sequence.client, sequence.remaining / sequence.weight)

    @property
    def _shares(self) -> bool:
        """One sequence can start from a prefix that another is computing."""
        return self.limits.copies and self.limits.truncates and self.limits.parks

    def _computing_prompts(self) -> list[Sequence]:
        """Live sequences whose prompt is not computed yet, if prefixes can be shared at all."""
        if not self._shares:
            return []
        return [s for s in self.live.values() if s.computed < s.prompt_tokens]

    def _worth_waiting(
        self, sequence: Sequence, reuse: Reuse | None, computing: list[Sequence]
    ) -> bool:
        """A live sequence is just computing a longer common prefix: waiting for it costs less
        than computing it beside it."""
        have = reuse.length if reuse else 0
        known = sequence.known.view()[:-1]
        return any(
            donor.salt == sequence.salt
            and common_prefix(known, donor.known.view()[: donor.prompt_tokens])
            > max(have, donor.computed) + MIN_SHARED_TOKENS
            for donor in computing
        )

    def _has_room(
        self, sequence: Sequence, reuse: Reuse | None, live: Mapping[str, Sequence]
    ) -> bool:
        """The whole known part fits beside the `live` sequences and what they still compute."""
        if not live:
            return True
        held = [s.cells.view() for s in live.values()]
        new = len(sequence.known)
        if reuse is not None and reuse.restores:
            new = max(new, reuse.donor.host_tokens)  # a state comes back whole, then it is cut
        elif reuse is not None:
            new -= reuse.length
            held.append(reuse.donor.cells.view()[: reuse.length])
        left = self.pool.size - new - sum(s.remaining for s in live.values())
        if sum(map(len, held)) <= left:  # even if nothing is shared
            return True
        return self.pool.distinct(held) <= left

    # Rows ----------------------------------------------------------------------------------

    def _decode_spans(self, decoding: list[Sequence]) -> list[Span]:
        decoding.sort(key=_arrival)
        if self.pool.free >= len(decoding):
            self.cache.extend_each(decoding)
            return [self._newest(sequence) for sequence in decoding]
        spans = []
        for sequence in decoding:
            if sequence.id in self.live and self._make_room(1, for_sequence=sequence):
                spans.append(self._span(sequence, 1))
        return spans

    def _prompt_spans(self, left: int, *, must: bool) -> list[Span]:
        """Pieces of prompts: shared between clients, of each the one that is due first. must:
        nothing else runs in this step, so one gets at least one row, whatever that costs the
        others."""
        prompts = [s for s in self.live.values() if not s.decoding and s.remaining > 0]
        prompts.sort(key=_turn)
        pieces = [self.cache.longest_piece(s) for s in prompts]
        wants = [
            Want(s.client, s.weight, piece, s.remaining - piece)
            for s, piece in zip(prompts, pieces, strict=True)
        ]
        spans: list[Span] = []
        for sequence, share in zip(prompts, self._prompt_shares.of_step(wants, left), strict=True):
            if sequence.id not in self.live:
                continue
            must_run = must and not spans
            if must_run and not self._make_room(1, for_sequence=sequence):
                continue
            wanted = max(share, 1 if must_run else 0)
            rows = min(wanted, self.cache.spare_cells(wanted))
            if rows > 0:
                spans.append(self._span(sequence, rows))
                self.cache.computed_prompt(sequence)
        return spans

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
                self.cache.extend(sequence, count)
                left -= count
                tokens = np.concatenate([span.tokens, guess])
                span = span._replace(tokens=tokens, logits=1 + count)
            longer.append(span)
        return longer

    def _span(self, sequence: Sequence, rows: int) -> Span:
        assert sequence.seq is not None
        start = self.cache.extend(sequence, rows)
        tokens = sequence.known.copied(start, start + rows)
        return Span(sequence.id, sequence.seq, start, tokens, int(sequence.remaining == 0))

    def _newest(self, sequence: Sequence) -> Span:
        """The row of its newest token, whose cell it has."""
        assert sequence.seq is not None
        start = len(sequence.known) - 1
        return Span(sequence.id, sequence.seq, start, sequence.known.copied(start, start + 1), 1)

    def _make_room(self, cells: int, *, for_sequence: Sequence) -> bool:
        """Free at least `cells`: parked sequences go first, then the youngest live one is sent
        back to wait. The oldest gets room, because one sequence never exceeds the pool. False when
        `for_sequence` itself had to go."""
        while self.pool.free < cells:
            if self.cache.evict():
                continue
            youngest = max(self.live.values(), key=lambda s: s.arrival)
            self._preempt(youngest)
            if youngest is for_sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Send a live sequence back to wait, before all others, and free its cells."""
        self.preemptions += 1
        del self.live[sequence.id]
        parked = self.cache.leave(sequence)
        if parked is not None:
            self.cache.give_up(parked)
        self.waiting.add_resumed(sequence)


_arrival: Callable[[Sequence], int] = attrgetter("arrival")


def _turn(sequence: Sequence) -> tuple[float, int]:
    return sequence.due, sequence.arrival
