"""The engine loop: schedule, one engine call, sample, events. One thread, nothing else in it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from okno.core.errors import OknoError
from okno.core.events import Failed
from okno.engines.arrivals import Arrivals
from okno.engines.engine import Engine
from okno.engines.meter import Moments, StepMeter
from okno.engines.protocol import (
    CallFailed,
    CancelCall,
    Embedded,
    Events,
    FromWorker,
    Inspect,
    Inspection,
    Slot,
)
from okno.engines.queue_watch import QueueWatch
from okno.engines.resizing import ResizeJob, carry_out
from okno.engines.sampling_batch import Answer, Ask, sample_all
from okno.engines.speculation import Speculation
from okno.engines.task import Task
from okno.engines.tidying import CALM_S, Tidier
from okno.schedule.cost import Ahead
from okno.schedule.pacer import Pacer, Target
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Sampled, Span, Step

IDLE_WAIT_S = 0.5
WHOLE_INPUT_PATIENCE = 10.0  # an embedding model computes an input in one call
RESIZE_PATIENCE = 10.0  # a large context is opened in one call


@dataclass(slots=True)
class EmbedJob:
    """Token ids of each input; vectors are computed a piece per pass of the loop."""

    call: int
    inputs: list[list[int]]
    normalize: bool
    note: str
    done: list[bytes] = field(default_factory=list)
    running: Generator[None, None, NDArray[np.float32]] | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """The client of a request is gone."""

    id: str


Work = Task | Leave | EmbedJob | CancelCall | Inspect | ResizeJob


class EngineLoop:
    """Owns the engine and the scheduler. Work arrives through `inbox` from other threads; events
    leave through `send`. `loops` and `steps` are read by the heartbeat."""

    def __init__(
        self,
        engine: Engine,
        send: Callable[[FromWorker], None],
        clock: Callable[[], float],
        speculation: Speculation | None = None,
        target_itl_s: float | None = None,
    ) -> None:
        self.engine = engine
        self.speculation = speculation
        self.inbox: SimpleQueue[Work] = SimpleQueue()
        self.arrivals = Arrivals()
        self.scheduler = Scheduler(engine.limits)
        self.loops = self.steps = self.rows = 0
        self.live = self.waiting = self.used_cells = 0  # read by the heartbeat's thread
        self.patience = 1.0
        self.meter = StepMeter(clock())
        self._queue = QueueWatch(self.meter.lately)
        self._send = send
        self._clock = clock
        self.sample = sample_all
        self._tidier = Tidier(engine, clock)
        self._wait_s, self._ran_s = IDLE_WAIT_S, clock()
        self._target = Target(target_itl_s)
        self._pacer = self._new_pacer()
        self._tasks: dict[str, Task] = {}
        self._embeds: list[EmbedJob] = []
        self._events = Events()

    def run(self) -> None:
        """Forever; ends only with an exception (EngineBroken) or the process."""
        while True:
            self.once()

    def once(self) -> None:
        """One pass: take what arrived, one step, one piece of embedding, send the events."""
        self.loops += 1
        self._receive()
        self._tell_waiting()
        began = self._clock()
        step = self._schedule()
        learnt_s = 0.0
        if step.spans:
            learnt_s = self._execute(step, began)
            self._ran_s, self._wait_s = self._clock(), 0.0
        else:
            self.meter.idle()
            self._tidy_idle()
        if self._embeds:
            self._embed_piece()
        self.live, self.waiting = len(self.scheduler.live), len(self.scheduler.waiting)
        self.used_cells = self.scheduler.pool.used
        self._flush()
        if self.speculation is not None and step.spans and not self._embeds:
            self.speculation.took(self._clock() - began, learnt_s)
        if step.spans and self.scheduler.live:
            self._tidier.beside(self.scheduler, self._ran_s - began)

    # Work that arrives -----------------------------------------------------------------------

    def _receive(self) -> None:
        busy = bool(self._tasks or self._embeds)
        try:
            self._take(self.inbox.get(timeout=0 if busy else self._wait_s))
            while True:
                self._take(self.inbox.get_nowait())
        except Empty:
            return

    def _tidy_idle(self) -> None:
        """Nothing ran: parked sequences move to host memory, one in each pass."""
        calm_s = self._clock() - self._ran_s
        if calm_s < CALM_S:
            self._wait_s = CALM_S - calm_s
        elif not self._tasks and not self._embeds:
            self._wait_s = 0.0 if self._tidier.idle(self.scheduler) else IDLE_WAIT_S

    def _take(self, work: Work) -> None:
        match work:
            case Task():
                self._admit(work)
            case Leave(id):
                self._leave(id)
            case EmbedJob():
                if self.arrivals.arrived(work.call):
                    self._embeds.append(work)
            case CancelCall(call):
                self.arrivals.gone(call)
                self._embeds = [job for job in self._embeds if job.call != call]
            case Inspect(call):
                self._send(self._inspection(call))
            case ResizeJob():
                self._resize(work)

    def _admit(self, task: Task) -> None:
        if not self.arrivals.arrived(task.id):
            return
        try:
            task.fit(self.engine.window.ctx)
        except OknoError as error:
            self._events.failed.append(Failed(task.id, error.info))
            return
        task.clock.queued = self._clock()
        self._tasks[task.id] = task
        self.scheduler.add(task.sequence)
        self._queue.arrived(task.id)

    def _leave(self, id: str) -> None:
        if self._tasks.pop(id, None) is not None:
            self.scheduler.cancel(id)
        else:
            self.arrivals.gone(id)

    def _tell_waiting(self) -> None:
        told = self._queue.look(self.scheduler, self._clock())
        self._events.accepted += told.accepted
        self._events.queued += told.queued

    def _resize(self, job: ResizeJob) -> None:
        """Between two steps: the window of `job`, or the reason why it stays."""
        if not self.arrivals.arrived(job.call):
            job.outcome.put(None)
            return
        self.patience = RESIZE_PATIENCE
        try:
            job.outcome.put(carry_out(job.prepared, self.scheduler, self._clock))
        except OknoError as error:
            job.outcome.put(error)
        else:
            self._pacer = self._new_pacer()
            if self.speculation is not None:
                self.speculation.resized(self.engine.window)
            self.meter.idle()  # the pause is no part of a step
            for embed in self._embeds:
                embed.running = None  # its context may be gone
        finally:
            self.patience = 1.0

    # One step --------------------------------------------------------------------------------

    def _schedule(self) -> Step:
        drafts = None
        if self.speculation is not None:
            ahead = self.scheduler.ahead()
            rows = self._prompt_rows(ahead)
            drafts = self.speculation.propose(self.scheduler, ahead, rows)
        self.meter.allowed = None
        most = self.engine.window.step_tokens
        step = self.scheduler.schedule(most, self._prompt_rows, drafts)
        return self._filled(step) if step.spans else step

    def _filled(self, step: Step) -> Step:
        """With rows that make it shorter, as far as rows and cells are free."""
        pool = self.scheduler.pool
        if self.scheduler.limits.filler_seq is None:
            return step
        free = min(self.engine.window.step_tokens - step.rows, pool.free)
        filler = self.engine.learner.filler(step, pool.end)
        return replace(step, filler=filler) if 0 < filler <= free else step

    def _prompt_rows(self, ahead: Ahead) -> int:
        """How many rows of prompts the step ahead may take."""
        if not ahead.prompt_tokens:
            return 0
        self.meter.allowed = rows = self._pacer.prompt_rows(ahead)
        return rows

    def _new_pacer(self) -> Pacer:
        """For the engine as it is now."""
        return Pacer(self.engine.window.step_tokens, self.engine.learner, self._target)

    def _embed_rows(self) -> int:
        """How many rows of texts to embed the next engine call may take."""
        return self._pacer.prompt_rows(self.scheduler.ahead())

    def _execute(self, step: Step, began: float) -> float:
        """Seconds that the learner was told."""
        by_model = self.speculation.by_model if self.speculation is not None else ()
        record = self.meter.opened(
            step, self._tasks, self.scheduler, self.engine.window.step_tokens, by_model
        )
        started = self._clock()
        for span in step.spans:
            task = self._tasks[span.id]
            if task.clock.started is None:
                task.clock.started = started
                self.meter.started(task.sequence)
        logits = self.engine.execute(step)
        now = self._clock()
        self.steps += 1
        self.rows += step.rows
        used_cells = self.scheduler.pool.end
        sampled = self._sample(step, logits, now)
        self.scheduler.update(step, sampled)
        if self.speculation is not None:
            self.speculation.learn(step, sampled)
        booked = self._clock()
        self.engine.learner.learn(step, used_cells, booked - started)
        at = Moments(began, started, now, booked)
        self.meter.closed(record, sampled, at, self.scheduler)
        return booked - started

    def _sample(self, step: Step, logits: NDArray[np.float32], now: float) -> dict[str, Sampled]:
        """First all choices that depend on no other, together; then each task takes its own."""
        asks: list[Ask] = []
        wanting: list[tuple[Span, Task, int, int]] = []  # with its first row, and where asks end
        first = at = 0
        for span in step.spans:
            if span.logits:
                task = self._tasks[span.id]
                asks += task.asks(first, span.logits)
                wanting.append((span, task, first, len(asks)))
                first += span.logits
        answers = self.sample(logits, asks)
        sampled: dict[str, Sampled] = {}
        for span, task, first, end in wanting:
            rows = logits[first : first + span.logits] if span.logits > 1 else logits
            mine, at = answers[at:end], end
            sampled[span.id] = self._next_tokens(task, rows, span.drafts, mine, now)
        return sampled

    def _next_tokens(
        self,
        task: Task,
        rows: NDArray[np.float32],
        drafts: NDArray[np.int32],
        answers: list[Answer],
        now: float,
    ) -> Sampled:
        """The sampled tokens; none when the sequence failed."""
        try:
            delta = task.sample(rows, drafts, answers, now)
        except OknoError as error:
            del self._tasks[task.id]
            self._events.failed.append(Failed(task.id, error.info))
            return Sampled((), ended=True)
        self._events.deltas.append(delta)
        if task.finished is None:
            return Sampled(delta.tokens)
        del self._tasks[task.id]
        self._events.finished.append(task.finished)
        self.meter.answered(task.finished)
        return Sampled(delta.tokens, ended=True)

    def _flush(self) -> None:
        events = self._events
        if events.accepted or events.queued or events.deltas or events.finished or events.failed:
            self._events = Events()
            self._send(events)

    # Embeddings ------------------------------------------------------------------------------

    def _embed_piece(self) -> None:
        job = self._embeds[0]
        if job.running is None:
            job.running = self.engine.embed(job.inputs[len(job.done)], self._embed_rows)
        if self.engine.facts.is_embedding_model:
            self.patience = WHOLE_INPUT_PATIENCE
        try:
            next(job.running)
        except StopIteration as stop:
            job.done.append(_vector_bytes(stop.value, normalize=job.normalize))
            job.running = None
        except OknoError as error:
            self._embeds.pop(0)
            self._send(CallFailed(job.call, error.info))
            return
        finally:
            self.patience = 1.0
        if len(job.done) == len(job.inputs):
            self._embeds.pop(0)
            tokens = sum(map(len, job.inputs))
            self._send(Embedded(job.call, job.done, tokens, job.note))

    # Inspection ------------------------------------------------------------------------------

    def _inspection(self, call: int) -> Inspection:
        scheduler = self.scheduler
        slots = [_slot(s, live=True) for s in scheduler.live.values()]
        slots += [_slot(s, live=False) for s in scheduler.parked.values()]
        return Inspection(
            call,
            sorted(slots, key=lambda slot: slot.seq),
            [sequence.id for sequence in scheduler.waiting],
            scheduler.pool.used,
            scheduler.pool.size,
            self.steps,
            self.engine.learner.lesson(),
        )


def _slot(sequence: Sequence, *, live: bool) -> Slot:
    assert sequence.seq is not None
    return Slot(
        seq=sequence.seq,
        request=sequence.id if live else None,
        state="live" if live else "parked",
        prompt_tokens=sequence.prompt_tokens,
        computed_tokens=sequence.computed,
        generated_tokens=max(0, sequence.generated),
        client=sequence.client,
    )


def _vector_bytes(vector: NDArray[np.float32], *, normalize: bool) -> bytes:
    norm = float(np.linalg.norm(vector))
    scaled = vector / np.float32(norm) if normalize and norm > 0 else vector
    return scaled.astype("<f4").tobytes()
