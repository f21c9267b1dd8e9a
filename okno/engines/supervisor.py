"""The supervisor: keeps a worker alive and streams going, whatever happens to the worker.

It notices death (the socket closes), a hang (the loop's counter stands still) and crash loops. A
dead worker is replaced after a backoff, and every request in flight is submitted again together
with the tokens its client already has: the client sees a pause, no token lost or twice.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

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
from okno.core.request import Message, Request
from okno.engines.client import EngineState, EngineStatus
from okno.engines.process import WorkerProcess
from okno.engines.protocol import (
    Answer,
    CallFailed,
    Cancel,
    CancelCall,
    Detokenize,
    Detokenized,
    Embed,
    Embedded,
    Events,
    FromWorker,
    Heartbeat,
    Inspect,
    Inspection,
    LoadFailed,
    Loading,
    Ready,
    Submit,
    Tokenize,
    Tokenized,
    WorkerOptions,
)
from okno.engines.streams import FAIL_AT, Stream, Streams

log = logging.getLogger("okno.supervisor")

WATCH_S = 0.25
LOAD_SILENCE_S = 600.0
MAX_BACKOFF_S = 5.0
FIRST_BACKOFF_S = 0.1
QUARANTINE_DEATHS = 5  # in a row, without a token in between
QUARANTINE_LOADS = 3  # deaths in a row before the model was ready
STALL_S = 10.0

Call = Tokenize | Detokenize | Embed | Inspect


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


@dataclass(slots=True)
class _PendingCall:
    message: Call
    answer: asyncio.Future[Answer]
    strikes: int = 0


class Supervisor:
    """engines.client.EngineClient over a worker process. One event loop; not thread-safe.

    hang_timeout_s: the worker is killed when its loop makes no pass for so long; it must exceed
    the longest step (a step is sized to about half a second).
    """

    def __init__(
        self,
        options: WorkerOptions,
        *,
        hang_timeout_s: float = 60.0,
        on_progress: Callable[[float], None] | None = None,
    ) -> None:
        self.options = options
        self._hang_timeout_s = hang_timeout_s
        self._on_progress = on_progress
        self._state: EngineState = "loading"
        self._progress = 0.0
        self._ready: Ready | None = None
        self._ready_or_over = asyncio.Event()
        self._heartbeat: Heartbeat | None = None
        self._moved_at = self._stepped_at = time.monotonic()
        self._worker: WorkerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._streams = Streams()
        self._calls: dict[int, _PendingCall] = {}
        self._call_numbers = itertools.count(1)
        self._count = _Counters()
        self._draining = False
        self._last_death: str | None = None
        self._error: ErrorInfo | None = None
        self._deaths = self._unready_deaths = 0

    # Life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the worker and wait until the model is loaded. Raises the OknoError that loading
        ended with (ModelUnusable, DoesNotFit, ...)."""
        self._task = asyncio.create_task(self._supervise())
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
        while len(self._streams) and (left := deadline - time.monotonic()) > 0:
            self._streams.changed.clear()
            try:
                await asyncio.wait_for(self._streams.changed.wait(), left)
            except TimeoutError:
                break
        self._fail_everyone(
            NotReady("The server is stopping and this answer was not finished in time. "
                     "Ask again when it is back.", retry_after_s=5)
        )  # fmt: skip

    async def _supervise(self) -> None:
        while True:
            self._moved_at = time.monotonic()
            self._worker = await WorkerProcess.start(self.options, self._on_message)
            watch = asyncio.create_task(self._watch(self._worker))
            try:
                reason = await self._worker.ended()
            finally:
                watch.cancel()
            if not await self._bury(reason):
                return

    async def _bury(self, reason: str) -> bool:
        """Take in a death; True to start a new worker."""
        was_ready, self._heartbeat = self._state == "ready", None
        self._worker = None
        self._last_death = reason
        self._deaths += 1
        self._unready_deaths = 0 if was_ready else self._unready_deaths + 1
        log.warning("worker ended: %s", reason)
        if self._error is not None or self._is_hopeless():
            self._quarantine(reason)
            return False
        self._state = "restarting" if self._ready else "loading"
        self._strike(reason)
        self._count.restarts += 1
        await asyncio.sleep(min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (self._deaths - 1)))
        return True

    def _is_hopeless(self) -> bool:
        return self._deaths >= QUARANTINE_DEATHS or self._unready_deaths >= QUARANTINE_LOADS

    def _quarantine(self, reason: str) -> None:
        self._state = "quarantined"
        if self._error is None:
            self._error = EngineFailed(
                f"The model {self.options.name} was taken out of service: its worker died "
                f"{self._deaths} times in a row without producing a token (last: {reason}). "
                "Restart okno to try again, or serve another model.",
                deaths=self._deaths,
            ).info
        self._fail_everyone(from_info(self._error))
        self._ready_or_over.set()

    def _strike(self, reason: str) -> None:
        for stream in self._streams.strike():
            self._end_failed(stream, EngineFailed(
                f"The engine died {FAIL_AT} times while working on this request (last: "
                f"{reason}), so it is not tried again. Other requests go on.",
            ).info)  # fmt: skip
        for number, call in list(self._calls.items()):
            call.strikes += 1
            if call.strikes >= FAIL_AT:
                error = EngineFailed(f"The engine died {FAIL_AT} times on this call: {reason}.")
                self._answer(CallFailed(number, error.info))

    async def _watch(self, worker: WorkerProcess) -> None:
        """Kill a worker whose loop stands still. Our own pauses (a suspended machine) do not
        count against it."""
        ticked = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            if now - ticked > 4 * WATCH_S:
                self._moved_at += now - ticked
            ticked = now
            bound = self._hang_timeout_s if self._state == "ready" else LOAD_SILENCE_S
            if now - self._moved_at > bound:
                worker.kill(f"hung: no step within {bound:g} s")
                return

    # What the worker says ----------------------------------------------------------------------

    def _on_message(self, message: FromWorker) -> None:
        match message:
            case Events():
                self._on_events(message)
            case Heartbeat():
                self._on_heartbeat(message)
            case Loading(fraction):
                self._on_loading(fraction)
            case Ready():
                self._on_ready(message)
            case LoadFailed(error):
                self._error = error
            case _:
                self._answer(message)

    def _on_loading(self, fraction: float) -> None:
        self._moved_at = time.monotonic()
        self._progress = fraction
        if self._on_progress is not None:
            self._on_progress(fraction)

    def _on_ready(self, message: Ready) -> None:
        assert self._worker is not None
        self._ready, self._state, self._progress = message, "ready", 1.0
        self._moved_at = self._stepped_at = time.monotonic()
        for stream in self._streams.to_replay():
            self._submit(stream)
        for call in self._calls.values():
            self._worker.send(call.message)
        self._ready_or_over.set()

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        now = time.monotonic()
        before = self._heartbeat
        if before is None or beat.loops != before.loops:
            self._moved_at = now
        if before is None or beat.steps != before.steps or not len(self._streams):
            self._stepped_at = now
        self._heartbeat = beat

    def _on_events(self, events: Events) -> None:
        every: list[Event] = [*events.accepted, *events.deltas, *events.finished, *events.failed]
        for event in every:
            stream = self._streams.get(event.id)
            if stream is not None:
                self._pass_on(stream, event)
        if events.deltas or events.finished:
            self._deaths = 0
        suspect = self._streams.next_suspect()
        if suspect is not None:
            self._submit(suspect)

    def _pass_on(self, stream: Stream, event: Event) -> None:
        match event:
            case Finished():
                self._count.completed += 1
                self._count.prompt_tokens += event.usage.prompt_tokens
                self._count.cached_tokens += event.usage.cached_tokens
                self._count.generated_tokens += event.usage.completion_tokens
                self._streams.remove(stream)
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
        self._streams.remove(stream)
        stream.fail(error)

    def _fail_everyone(self, error: OknoError) -> None:
        for stream in self._streams:
            self._end_failed(stream, error.info)
        for number in list(self._calls):
            self._answer(CallFailed(number, error.info))

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
        stream = Stream(request)
        self._streams.add(stream)
        self._submit(stream)
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
        self._streams.remove(stream)
        if self._worker is not None:
            self._worker.send(Cancel(stream.request.id))

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

    async def tokenize(
        self,
        text: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        add_special: bool = False,
        parse_special: bool = False,
        continue_last: bool = False,
        with_pieces: bool = False,
    ) -> Tokenized:
        turns = None if messages is None else tuple(messages)
        number = next(self._call_numbers)
        call = Tokenize(number, text, turns, add_special, parse_special, continue_last, with_pieces)
        answer = await self._call(call)
        assert isinstance(answer, Tokenized)
        return answer

    async def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> Detokenized:
        answer = await self._call(Detokenize(next(self._call_numbers), tuple(tokens), special))
        assert isinstance(answer, Detokenized)
        return answer

    async def embed(
        self, inputs: Sequence[str | tuple[int, ...]], *, normalize: bool = True
    ) -> Embedded:
        answer = await self._call(Embed(next(self._call_numbers), tuple(inputs), normalize))
        assert isinstance(answer, Embedded)
        return answer

    async def inspect(self) -> Inspection:
        answer = await self._call(Inspect(next(self._call_numbers)))
        assert isinstance(answer, Inspection)
        return answer

    async def _call(self, message: Call) -> Answer:
        self._check_accepting()
        if len(self._calls) >= self.options.queue_limit:
            raise QueueFull(
                f"{len(self._calls)} calls (tokenize, embeddings, slots) are waiting, which is the "
                "limit (--queue-limit). Try again in a few seconds.",
                queue_limit=self.options.queue_limit,
                retry_after_s=2,
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[message.call] = _PendingCall(message, future)
        if self._worker is not None and self._state == "ready":
            self._worker.send(message)
        try:
            answer = await future
        finally:
            if self._calls.pop(message.call, None) is not None and self._worker is not None:
                self._worker.send(CancelCall(message.call))
        if isinstance(answer, CallFailed):
            raise from_info(answer.error)
        return answer

    def _answer(self, answer: Answer) -> None:
        pending = self._calls.pop(answer.call, None)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(answer)

    @property
    def worker_pid(self) -> int | None:
        """The process id of the running worker; None while there is none."""
        return self._worker.pid if self._worker else None

    # Status -------------------------------------------------------------------------------------

    def status(self) -> EngineStatus:
        ready, count = self._ready, self._count
        stalled = bool(len(self._streams)) and (
            time.monotonic() - self._stepped_at > min(STALL_S, self._hang_timeout_s)
        )
        return EngineStatus(
            state=self._state,
            progress=self._progress,
            stalled=stalled,
            facts=ready.facts if ready else None,
            window=ready.window if ready else None,
            memory=ready.memory if ready else None,
            notes=ready.notes if ready else (),
            heartbeat=self._heartbeat,
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
        )
