"""How long those that wait will wait until their prompt begins to be computed.

Time is counted in steps. Every live sequence needs so many more of them, the first to end gives its
slot to the next in the queue. Prompts advance by so many rows a step beside those that decode,
shared between clients (wait_prompts.py): they make steps longer, not more. A wait is its number of
steps at the pace of late, and the prompt rows that fall into them. What can't be known is taken as
it was lately: lengths of answers (schedule/lengths.py), the cached share of prompts.

Left out: who arrives later and is served first (fairness), waiting for a prefix that a neighbour
computes, preemption.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from okno.schedule.lately import Lately, Pace
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.wait_prompts import Prompt, Underway

ROUNDING = 1e-9  # of sums of floats, which must not lose a whole step
LOOKED_AT = 128  # places of a queue that are followed one by one; it takes 3 to 5 us each


@dataclass(frozen=True, slots=True)
class Work:
    """What a sequence still takes: rows of its prompt, tokens of its answer, KV cells on average
    until its end. due: of a client's prompts in slots the one with the least is computed first.
    weight: of its client's share."""

    prompt_rows: float
    answer_tokens: float
    cells: float
    due: float = 0.0
    client: str = ""
    weight: float = 1.0


def estimated_waits(scheduler: Scheduler, lately: Lately) -> list[float | None]:
    """Seconds for each of `scheduler.waiting`, in its order; None while the pace is not known
    and others are before it."""
    live = sorted(scheduler.live.values(), key=lambda s: (s.due, s.arrival))
    limits, count = scheduler.limits, len(scheduler.waiting)
    pace = lately.pace
    if pace is None:
        return [0.0 if not live and place == 0 else None for place in range(count)]
    works = (work_of(s, lately, new=False) for s in live)
    ahead = (work_of(s, lately, new=True) for s in islice(scheduler.waiting, LOOKED_AT))
    near = list(waits(works, ahead, pace, limits.batch_size, limits.pool_cells))
    return [*near, *further(near, count - len(near))]


def further(near: list[float], count: int) -> list[float]:
    """The waits of `count` places after `near`: as much longer each as in its second half."""
    if count <= 0:
        return []
    half = len(near) // 2
    each_s = (near[-1] - near[half]) / (len(near) - 1 - half)
    return [near[-1] + each_s * place for place in range(1, count + 1)]


def work_of(sequence: Sequence, lately: Lately, *, new: bool) -> Work:
    """new: it waits, so that a part of its prompt may be found in the cache."""
    owed = 0 if sequence.decoding else sequence.remaining
    limit = sequence.max_tokens - sequence.prompt_tokens
    answer = lately.lengths.remaining(sequence.generated, limit)
    rows = owed * (1 - lately.cached_share) if new else owed
    cells = len(sequence.known) + answer / 2
    return Work(rows, answer, cells, sequence.due, sequence.client, sequence.weight)


def waits(
    live: Iterable[Work], waiting: Iterable[Work], pace: Pace, slots: int, pool_cells: int
) -> Iterator[float]:
    """Seconds until each of `waiting` (in the order of the queue) starts beside `live` when at most
    `slots` are live and their cells fit the pool."""
    run = _Run(pace, Underway(pace.piece_rows))
    for work in live:
        run.start(work)
    for work in waiting:
        while run.live and (run.live >= slots or run.cells + work.cells > pool_cells):
            run.end_one()
        yield run.seconds_at(run.begin(work))
        run.start(work)


@dataclass(slots=True)
class _Run:
    """The course of things, in steps from now. prompts: those that are not computed yet; ends:
    (step of its end, cells) of those that decode; prompt_rows: of all that have started, computed
    at the step all_done."""

    pace: Pace
    prompts: Underway
    now: float = 0.0
    all_done: float = 0.0
    prompt_rows: float = 0.0
    cells: float = 0.0
    ends: list[tuple[float, float]] = field(default_factory=list)

    @property
    def live(self) -> int:
        return len(self.ends) + len(self.prompts)

    def start(self, work: Work) -> None:
        answer_steps = work.answer_tokens / self.pace.advance
        self.cells += work.cells
        if not work.prompt_rows:
            heapq.heappush(self.ends, (self.now + answer_steps, work.cells))
            return
        self.prompts.add(
            Prompt(work.client, work.weight, work.due, work.prompt_rows, answer_steps, work.cells)
        )
        self.all_done = max(self.now, self.all_done) + work.prompt_rows / self.pace.piece_rows
        self.prompt_rows += work.prompt_rows

    def end_one(self) -> None:
        """Go on to the end of the next answer."""
        ends = [self.now + step + prompt.then for step, prompt in self.prompts.done()]
        end = max(self.now, min([*ends, *(step for step, _ in self.ends[:1])]))
        for step, prompt in self.prompts.passed(end - self.now):
            heapq.heappush(self.ends, (self.now + step + prompt.then, prompt.cells))
        self.now = end
        _, cells = heapq.heappop(self.ends)
        self.cells -= cells

    def begin(self, work: Work) -> float:
        """The step in which the first row of one that starts now is computed: what the prompts
        before it leave of their last step is its."""
        first = self.now + self.prompts.first_row(work.client, work.due)
        return max(self.now, math.floor(first + ROUNDING))

    def seconds_at(self, step: float) -> float:
        """From now until `step` begins."""
        owed = max(0.0, self.all_done - step) * self.pace.piece_rows
        return step * self.pace.step_s + (self.prompt_rows - owed) * self.pace.row_s
