"""The supervisor: keeps a worker alive and streams going, whatever happens to the worker.

It notices death (the socket closes), a hang (the loop's counter stands still) and crash loops. A
dead worker is replaced after a backoff, and every request in flight is submitted again together
with the tokens its client already has: the client sees a pause, no token lost or twice.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

import msgspec

from okno.core.errors import (
    BadRequest,
    EngineFailed,
    ErrorInfo,
    NotReady,
    OknoError,
    QueueFull,
    from_info,
)
from okno.core.events import Event, Failed, Finished
from okno.core.request import Request
from okno.core.window import Window
from okno.engines.call_client import CallClient
from okno.engines.calls import Calls
from okno.engines.client import EngineState, EngineStatus
from okno.engines.crashes import CrashPolicy
from okno.engines.model_file import Fingerprint
from okno.engines.process import WorkerProcess
from okno.engines.protocol import (
    Answer,
    Call,
    CallFailed,
    Cancel,
    CancelCall,
    Embedded,
    Events,
    FromWorker,
    Heartbeat,
    LoadFailed,
    Loading,
    Ready,
    Resized,
    Submit,
    Traced,
    WorkerOptions,
)
from okno.engines.streams import FAIL_AT, Stream, Streams
from okno.engines.tally import TallyOfWorkers
from okno.engines.watchdog import Watchdog

log = logging.getLogger("okno.supervisor")

WATCH_S = 0.25


@dataclass(slots=True)
class _Counters:
    submitted: int = 0
    completed: int = 0
    cancelled: int = 0
    rejected: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    restarts: int = 0


class Supervisor(CallClient):
    """engines.client.EngineClient over a worker process. One event loop; not thread-safe.

    hang_timeout_s: the worker is killed when its loop makes no pass for so long. Steps are sized
    to half a second or less, except a full batch of decodes, which must fit into it; for work
    that cannot be cut (Heartbeat.patience) the bound is longer. on_steps: gets every step that ran,
    if the options ask for a trace.
    """

    def __init__(
        self,
        options: WorkerOptions,
        *,
        hang_timeout_s: float = 60.0,
        on_progress: Callable[[float], None] | None = None,
        on_steps: Callable[[Traced], None] | None = None,
    ) -> None:
        self.options = options
        self._watchdog = Watchdog(hang_timeout_s, time.monotonic())
        self._on_progress = on_progress
        self._on_steps = on_steps
        self._state: EngineState = "loading"
        self._progress = 0.0
        self._ready: Ready | None = None
        self._ready_or_over = asyncio.Event()
        self._worker: WorkerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._streams = Streams()
        self._calls = Calls()
        self._crashes = CrashPolicy()
        self._count = _Counters()
        self._tally = TallyOfWorkers()
        self._draining = False
        self._last_death: str | None = None
        self._error: ErrorInfo | None = None
        self._load_error: ErrorInfo | None = None
        self._ready_since: float | None = None
        self._file = Fingerprint.of(options.model_path)
        self._changed = asyncio.Event()  # a stream or a call ended

    # Life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the worker and wait until the model is loaded. Raises the OknoError that loading
        ended with (ModelUnusable, DoesNotFit, ...)."""
        self._task = asyncio.create_task(self._supervise())
        self._task.add_done_callback(self._supervision_ended)
        await self._ready_or_over.wait()
        if self._error is not None:
            raise from_info(self._error)

    async def close(self) -> None:
        """End the worker; streams still in flight fail."""
        self._state = "stopped"
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._worker is not None:
            await self._worker.stop(timeout_s=2.0)
        self._fail_everyone(NotReady("The server is stopping.", retry_after_s=5))

    async def drain(self, timeout_s: float) -> None:
        self._draining = True
        deadline = time.monotonic() + timeout_s
        while self._busy and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                break
        self._fail_everyone(
            NotReady("The server is stopping and this answer was not finished in time. "
                     "Ask again when it is back.", retry_after_s=5)
        )  # fmt: skip

    @property
    def _busy(self) -> bool:
        return bool(len(self._streams) or len(self._calls))

    async def _supervise(self) -> None:
        while True:
            self._watchdog.started(time.monotonic())
            if not await self._bury(await self._one_life()):
                return

    async def _one_life(self) -> str:
        """Start a worker and wait for its end; how it ended."""
        self._check_file()
        try:
            self._worker = await WorkerProcess.start(self.options, self._on_message)
        except OSError as error:
            return f"the process could not be started: {error}"
        watch = asyncio.create_task(self._watch(self._worker))
        try:
            return await self._worker.ended()
        finally:
            watch.cancel()

    async def _bury(self, reason: str) -> bool:
        """Take in a death; True to start a new worker."""
        since, self._ready_since = self._ready_since, None
        self._crashes.died(ready_for_s=None if since is None else time.monotonic() - since)
        self._worker = None
        self._watchdog.buried()
        self._tally.buried()
        self._last_death = reason
        if self._ready is None and self._load_error is not None:
            self._give_up(self._load_error)
            return False
        if self._crashes.hopeless:
            self._give_up(self._load_error or self._out_of_service(reason))
            return False
        self._state = "restarting" if self._ready else "loading"
        going_on = "restarting, streams go on" if self._ready else "trying again"
        log.warning("the worker ended: %s; %s", reason, going_on)
        if since is not None:
            self._strike(reason)
        self._count.restarts += 1
        await asyncio.sleep(self._crashes.backoff_s)
        return True

    def _give_up(self, error: ErrorInfo) -> None:
        """Nothing more is tried with this model; everybody is told why."""
        self._state = "quarantined"
        self._error = error
        if self._ready is not None:  # before, whoever waits in start() gets it
            log.error("%s", error.message)
        self._fail_everyone(from_info(error))
        self._ready_or_over.set()

    def _out_of_service(self, reason: str) -> ErrorInfo:
        deaths = self._crashes.deaths
        return EngineFailed(
            f"The model {self.options.name} was taken out of service: its worker died {deaths} "
            f"times in a row without an answer in between (last: {reason}). Restart okno to try "
            "again, or serve another model.",
            deaths=deaths,
        ).info

    def _supervision_ended(self, task: asyncio.Task[None]) -> None:
        """A defect of ours must not leave streams waiting: say it and stop serving."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the supervisor failed", exc_info=error)
            self._give_up(self._out_of_service(f"{type(error).__name__}: {error}"))

    def _strike(self, reason: str) -> None:
        condemned = self._streams.strike()
        for stream in condemned:
            self._end_failed(stream, EngineFailed(
                f"The engine died {FAIL_AT} times while working on this request (last: "
                f"{reason}), so it is not tried again. Other requests go on.",
            ).info)  # fmt: skip
        if self._calls.strike(reason) or condemned:
            self._crashes.convicted()

    def _check_file(self) -> None:
        """A model file that was replaced is another model: answers begun with the old one end."""
        now = Fingerprint.of(self.options.model_path)
        if now == self._file:
            return
        self._file = now
        log.warning("%s was replaced on disk; the new file is loaded", self.options.model_path)
        for stream in self._streams:
            if stream.emitted:
                self._end_failed(stream, EngineFailed(
                    "The model's file was replaced while this answer was being written and the "
                    "engine had to be restarted, so the answer cannot go on. Ask again.",
                ).info)  # fmt: skip

    async def _watch(self, worker: WorkerProcess) -> None:
        """Kill a worker whose loop stands still."""
        ticked = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            if now - ticked > 4 * WATCH_S:
                self._watchdog.slept(now - ticked)
            ticked = now
            bound = self._watchdog.overdue(now, ready=self._state == "ready")
            if bound is not None:
                worker.kill(f"hung: no step within {bound:g} s")
                return

    # What the worker says ----------------------------------------------------------------------

    def _on_message(self, message: FromWorker) -> None:
        match message:
            case Events():
                self._on_events(message)
            case Heartbeat():
                busy = len(self._streams) > 0
                self._watchdog.beat(message, time.monotonic(), busy=busy)
                self._tally.beat(message.tally)
            case Traced():
                if self._on_steps is not None:
                    self._on_steps(message)
            case Loading(fraction):
                self._on_loading(fraction)
            case Ready():
                self._on_ready(message)
            case LoadFailed(error):
                self._load_error = error
            case _:
                self._on_answer(message)

    def _on_loading(self, fraction: float) -> None:
        self._watchdog.started(time.monotonic())
        self._progress = fraction
        if self._on_progress is not None:
            self._on_progress(fraction)

    def _on_ready(self, message: Ready) -> None:
        assert self._worker is not None
        self._ready, self._state, self._progress = message, "ready", 1.0
        self._ready_since = time.monotonic()
        self._watchdog.started(self._ready_since)
        self._load_error = None
        self._crashes.became_ready()
        self.options = _pinned(self.options, message.window)
        for stream in self._streams.to_replay():
            self._submit(stream)
        for call in self._calls.to_resend():
            self._worker.send(call)
        self._release_suspect()
        self._ready_or_over.set()

    def _release_suspect(self) -> None:
        """Let the next suspect be tried, if none is: streams first, then calls."""
        if self._state != "ready" or self._worker is None:
            return
        stream = self._streams.next_suspect()
        if stream is not None:
            self._submit(stream)
        elif not self._streams.on_trial and (call := self._calls.next_suspect()) is not None:
            self._worker.send(call)

    def _on_events(self, events: Events) -> None:
        every: list[Event] = [
            *events.accepted, *events.queued, *events.deltas, *events.finished, *events.failed,
        ]  # fmt: skip
        for event in every:
            stream = self._streams.get(event.id)
            if stream is not None:
                self._pass_on(stream, event)
        if events.deltas or events.finished:
            self._crashes.progressed()
        self._release_suspect()

    def _on_answer(self, answer: Answer) -> None:
        if isinstance(answer, Embedded):
            self._crashes.progressed()
        if isinstance(answer, Resized):
            self._on_resized(answer)
        self._calls.answer(answer)
        self._changed.set()
        self._release_suspect()

    def _on_resized(self, message: Resized) -> None:
        """A new worker would open the new window."""
        assert self._ready is not None
        self._ready = msgspec.structs.replace(
            self._ready, window=message.window, memory=message.memory, notes=message.notes
        )
        self.options = _pinned(self.options, message.window)

    def _pass_on(self, stream: Stream, event: Event) -> None:
        match event:
            case Finished():
                self._count.completed += 1
                self._count.prompt_tokens += event.usage.prompt_tokens
                self._count.cached_tokens += event.usage.cached_tokens
                self._count.generated_tokens += event.usage.completion_tokens
                self._forget(stream)
            case Failed():
                self._end_failed(stream, event.error)
                return
        stream.put(event)

    def _end_failed(self, stream: Stream, error: ErrorInfo) -> None:
        if stream.ended:
            return
        if isinstance(from_info(error), BadRequest):
            self._count.rejected += 1
        else:
            self._count.failed += 1
        self._count.generated_tokens += len(stream.emitted)
        self._forget(stream)
        stream.fail(error)
        self._release_suspect()

    def _forget(self, stream: Stream) -> None:
        self._streams.remove(stream)
        self._changed.set()

    def _fail_everyone(self, error: OknoError) -> None:
        for stream in self._streams:
            self._end_failed(stream, error.info)
        self._calls.fail_all(error.info)
        self._changed.set()

    # Requests -----------------------------------------------------------------------------------

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        stream = self._open(request)
        try:
            while True:
                event = await stream.events.get()
                if isinstance(event, Failed):
                    raise from_info(event.error)
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self._leave(stream)

    def _open(self, request: Request) -> Stream:
        self._count.submitted += 1
        try:
            request.check()
            self._check_accepting()
            self._check_queue()
        except OknoError:
            self._count.rejected += 1
            raise
        stream = Stream(_seeded(request))
        self._streams.add(stream)
        try:
            self._submit(stream)
        except BaseException:
            self._leave(stream)
            raise
        return stream

    def _submit(self, stream: Stream) -> None:
        """To the worker if there is one; otherwise the next one gets it when it is ready."""
        if self._worker is not None and self._state == "ready":
            self._worker.send(Submit(stream.request, tuple(stream.emitted)))

    def _leave(self, stream: Stream) -> None:
        """The client took all, or left: the worker forgets the request at once."""
        if stream.ended:
            return
        stream.ended = True
        self._count.cancelled += 1
        self._count.generated_tokens += len(stream.emitted)
        self._forget(stream)
        if self._worker is not None:
            self._worker.send(Cancel(stream.request.id))
        self._release_suspect()

    def _check_accepting(self) -> None:
        if self._draining or self._state == "stopped":
            raise NotReady("The server is stopping.", retry_after_s=5)
        if self._state == "quarantined":
            assert self._error is not None
            raise from_info(self._error)
        if self._ready is None:
            raise NotReady(
                f"{self.options.name} is loading ({self._progress:.0%}). Try again shortly.",
                retry_after_s=2,
            )

    def _check_queue(self) -> None:
        assert self._ready is not None
        limit = self._ready.window.batch_size + self.options.queue_limit
        if len(self._streams) >= limit:
            raise QueueFull(
                f"{self._ready.window.batch_size} requests are being answered and "
                f"{self.options.queue_limit} wait, which is the limit (--queue-limit). "
                "Try again in a few seconds.",
                queue_limit=self.options.queue_limit,
                retry_after_s=2,
            )

    # Calls --------------------------------------------------------------------------------------

    async def _call(self, message: Callable[[int], Call]) -> Answer:
        self._check_accepting()
        self._check_call_queue()
        call = message(self._calls.next_number())
        future = self._calls.add(call)
        try:
            if self._worker is not None and self._state == "ready":
                self._worker.send(call)
            answer = await future
        finally:
            if self._calls.remove(call.call) and self._worker is not None:
                self._worker.send(CancelCall(call.call))
            self._changed.set()
        if isinstance(answer, CallFailed):
            raise from_info(answer.error)
        return answer

    def _check_call_queue(self) -> None:
        if len(self._calls) >= self.options.queue_limit:
            raise QueueFull(
                f"{len(self._calls)} calls (tokenize, embeddings, slots) are waiting, which is the "
                "limit (--queue-limit). Try again in a few seconds.",
                queue_limit=self.options.queue_limit,
                retry_after_s=2,
            )

    @property
    def worker_pid(self) -> int | None:
        """The process id of the running worker; None while there is none."""
        return self._worker.pid if self._worker else None

    # Status -------------------------------------------------------------------------------------

    def status(self) -> EngineStatus:
        ready, count = self._ready, self._count
        stalled = len(self._streams) > 0 and self._watchdog.stalled(time.monotonic())
        return EngineStatus(
            state=self._state,
            progress=self._progress,
            stalled=stalled,
            facts=ready.facts if ready else None,
            window=ready.window if ready else None,
            memory=ready.memory if ready else None,
            notes=ready.notes if ready else (),
            heartbeat=self._watchdog.heartbeat,
            in_flight=len(self._streams),
            restarts=count.restarts,
            submitted=count.submitted,
            completed=count.completed,
            cancelled=count.cancelled,
            rejected=count.rejected,
            failed=count.failed,
            prompt_tokens=count.prompt_tokens,
            cached_tokens=count.cached_tokens,
            generated_tokens=count.generated_tokens,
            last_death=self._last_death,
            error=self._error,
            tally=self._tally.total,
        )


def _pinned(options: WorkerOptions, window: Window) -> WorkerOptions:
    """The window stays what it is: `auto` is not decided anew by the memory that happens to be
    free at a restart, which could make it too small for answers under way."""
    return msgspec.structs.replace(
        options,
        batch_size=window.batch_size,
        ctx=window.ctx,
        kv_pool_tokens=window.kv_pool_tokens,
        kv_type=window.kv_type,
    )


def _seeded(request: Request) -> Request:
    """With a seed, drawn here if none was asked for: a replay must repeat it."""
    if request.sampling.seed is not None:
        return request
    return replace(request, sampling=replace(request.sampling, seed=secrets.randbits(63)))
