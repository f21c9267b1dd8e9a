"""What the loop measures of each step: its record, the counts for metrics, the pace for estimates.

`opened` before the engine call, `closed` after sampling: together a few microseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from okno.core.events import Finished
from okno.engines.steps import Piece, StepLog, StepRecord, reason
from okno.engines.tally import Tally
from okno.engines.task import Task
from okno.schedule.lately import Lately
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Operation, Sampled, Span, Step

NO_OPERATIONS: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one step, in seconds of the loop's clock: scheduling begins, the engine begins, it is
    done, the sampled tokens are booked."""

    began: float
    engine: float
    computed: float
    booked: float


class StepMeter:
    """Belongs to the loop's thread; `log` and `tally` may be read by others.

    began_s: the moment of the loop's clock from which records count. allowed: prompt rows that the
    step being scheduled may take, told by whoever decides it; None: no limit.
    """

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.log = StepLog()
        self.tally = Tally()
        self.lately = Lately()
        self.allowed: int | None = None
        self._preemptions = 0  # that the scheduler had at the last step
        self._last_booked: float | None = None  # the end of the step that this one followed at once

    def started(self, sequence: Sequence) -> None:
        """The first rows of `sequence` are about to be computed."""
        self.lately.started(sequence.prompt_tokens, sequence.cached)
        self.tally.prefix_hits += sequence.cached > 0

    def opened(
        self,
        step: Step,
        tasks: Mapping[str, Task],
        scheduler: Scheduler,
        row_budget: int,
        by_model: Collection[str] = (),
    ) -> StepRecord:
        """The record of a step that is scheduled, its times and accepted drafts still open.
        by_model: the sequences whose drafts a draft model guessed."""
        pieces = [
            _piece(span, tasks[span.id].sequence.prompt_tokens, span.id in by_model)
            for span in step.spans
        ]
        live, waiting = len(scheduler.live), len(scheduler.waiting)
        why = reason(
            pieces, step.decodes, row_budget=row_budget, allowed=self.allowed,
            free_cells=scheduler.pool.free, live=live, waiting=waiting,
            batch_size=scheduler.limits.batch_size,
        )  # fmt: skip
        return StepRecord(
            self.log.count + 1, 0.0, why, self.allowed, _kinds(step.operations), live, waiting,
            scheduler.pool.used, self._preempted(scheduler), pieces, filler=step.filler,
        )  # fmt: skip

    def _preempted(self, scheduler: Scheduler) -> int:
        """Preemptions since the last step. A new scheduler (after a resize) counts from zero."""
        new = scheduler.preemptions - self._preemptions
        new = scheduler.preemptions if new < 0 else new
        self._preemptions = scheduler.preemptions
        self.tally.preemptions += new
        return new

    def closed(
        self, record: StepRecord, sampled: Mapping[str, Sampled], at: Moments, scheduler: Scheduler
    ) -> None:
        """The step is done and booked: what it took, and which of its drafts were right."""
        record.start_s = at.began - self.began_s
        record.schedule_s = at.engine - at.began
        record.engine_s = at.computed - at.engine
        record.sample_s = at.booked - at.computed
        rows = decodes = drafts = accepted = 0
        for piece in record.pieces:
            rows += piece.rows
            decodes += piece.decoding
            if piece.drafts:
                found = sampled.get(piece.request)
                piece.accepted = max(0, len(found.tokens) - 1) if found else 0
                drafts += piece.drafts
                accepted += piece.accepted
                source = self.tally.from_model if piece.by_model else self.tally.from_text
                source.checked += piece.drafts
                source.right += piece.accepted
        self.tally.decoding_steps += decodes > 0
        self.tally.checking_steps += drafts > 0
        self.tally.step(rows, at.booked - at.began, record.used_cells / scheduler.pool.size)
        began = at.began if self._last_booked is None else self._last_booked
        self.lately.ran(decodes, rows - decodes - drafts, at.booked - began, accepted)
        goes_on = bool(scheduler.live or len(scheduler.waiting))
        self._last_booked = at.booked if goes_on else None
        self.log.append(record)

    def idle(self) -> None:
        """A pass of the loop ran nothing: the next step follows none."""
        self._last_booked = None

    def answered(self, finished: Finished) -> None:
        """An answer came to its end."""
        tokens = finished.usage.completion_tokens
        self.lately.lengths.learn(tokens, cut=finished.reason == "length")


def _piece(span: Span, prompt_tokens: int, by_model: bool) -> Piece:
    rows, start = len(span.tokens), span.start
    drafts = span.logits - 1 if span.logits > 1 else 0
    decoding = start >= prompt_tokens and rows - drafts == 1
    return Piece(span.id, span.seq, start, rows, decoding, drafts, 0, by_model and drafts > 0)


def _kinds(operations: tuple[Operation, ...]) -> dict[str, int]:
    """`{"copy": 1, "truncate": 2}`."""
    if not operations:
        return NO_OPERATIONS
    found: dict[str, int] = {}
    for operation in operations:
        kind = type(operation).__name__.lower()
        found[kind] = found.get(kind, 0) + 1
    return found
