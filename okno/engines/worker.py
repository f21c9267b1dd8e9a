"""The worker process: one loaded model. `python -m okno.engines.worker FD`

Threads: the main one loads the engine and runs the loop; a reader takes frames; a few prepare
requests; one sends heartbeats. The process ends when its parent does, when the socket closes,
or when the engine breaks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import psutil

from okno.core.errors import EngineFailed, OknoError
from okno.core.events import Failed
from okno.engines.answers import Answers
from okno.engines.engine import Engine
from okno.engines.loop import EngineLoop, Leave
from okno.engines.prepare import Preparer
from okno.engines.prompt import PromptEncoder
from okno.engines.protocol import (
    CallFailed,
    Cancel,
    CancelCall,
    Detokenize,
    Embed,
    Events,
    Heartbeat,
    Inspect,
    LoadFailed,
    Loading,
    Ready,
    Recall,
    Recalled,
    Resize,
    Shutdown,
    Submit,
    Tokenize,
    ToWorker,
    Traced,
    WorkerOptions,
    decode_to_worker,
)
from okno.engines.resizing import resize
from okno.engines.sandbox import Sandbox
from okno.engines.speculation import speculation_for
from okno.engines.transport import FrameSocket

HEARTBEAT_S = 0.25
PREPARE_THREADS = 4
PR_SET_PDEATHSIG = 1
LOAD_FAILED_EXIT = 3


def main() -> None:
    """Entry point: the socket's file descriptor is the first argument."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # for the server, which drains, then ends us
        signal.signal(number, signal.SIG_IGN)
    wire = FrameSocket(socket.socket(fileno=int(sys.argv[1])))
    first = wire.receive()
    if first is None:
        return
    options = msgspec.msgpack.decode(first, type=WorkerOptions)
    try:
        engine = load(options, wire)
    except OknoError as error:
        wire.send(LoadFailed(error.info))
        sys.exit(LOAD_FAILED_EXIT)
    Worker(engine, options, wire).run()


def end_with_parent() -> None:
    """The kernel kills this process when the server dies, however it dies (Linux)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def load(options: WorkerOptions, wire: FrameSocket) -> Engine:
    """The engine of `options`, telling the server how far it is."""

    def progress(fraction: float) -> None:
        wire.send(Loading(fraction))

    if options.engine == "scripted":
        from okno.engines.scripted import ScriptedEngine

        return ScriptedEngine(options)
    from okno.engines.llamacpp import LlamaCpp

    return LlamaCpp(options, progress)


class Worker:
    """Connects the socket, the preparing threads and the loop."""

    def __init__(self, engine: Engine, options: WorkerOptions, wire: FrameSocket) -> None:
        self._engine = engine
        self._wire = wire
        self._loop = EngineLoop(
            engine, wire.send, time.monotonic, speculation_for(engine, options),
            options.target_itl_s,
        )  # fmt: skip
        prompts = PromptEncoder(engine, Sandbox(options.template_timeout_s))
        self._answers = Answers(engine, prompts)
        self._preparer = Preparer(engine, prompts)
        self._prepare = ThreadPoolExecutor(PREPARE_THREADS, thread_name_prefix="prepare")
        # Grammars may take a second each: they wait for each other, and nobody else for them.
        self._prepare_constrained = ThreadPoolExecutor(1, thread_name_prefix="constrained")
        self._calls = ThreadPoolExecutor(1, thread_name_prefix="calls")
        self._resizes = ThreadPoolExecutor(1, thread_name_prefix="resize")  # one after the other
        self._process = psutil.Process()
        self._tracing = options.trace
        self._traced = 0  # the newest step that was sent

    def run(self) -> None:
        """Serve until the process ends."""
        engine = self._engine
        self._wire.send(Ready(engine.facts, engine.window, engine.memory(), engine.notes))
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        with _or_end():
            self._loop.run()

    def _read(self) -> None:
        with _or_end():
            while (body := self._wire.receive()) is not None:
                self._dispatch(decode_to_worker(body))
        os._exit(0)

    def _dispatch(self, message: ToWorker) -> None:
        match message:
            case Submit():
                self._loop.arrivals.begin(message.request.id)
                threads = self._prepare_constrained if message.request.constraint else self._prepare
                threads.submit(self._submit, message)
            case Cancel(id):
                self._loop.inbox.put(Leave(id))
            case Tokenize() | Detokenize() | Embed() | Recall():
                self._loop.arrivals.begin(message.call)
                self._calls.submit(self._call, message)
            case Resize():
                self._loop.arrivals.begin(message.call)
                self._resizes.submit(self._resize, message)
            case CancelCall() | Inspect():
                self._loop.inbox.put(message)
            case Shutdown():
                os._exit(0)

    def _submit(self, message: Submit) -> None:
        id = message.request.id
        try:
            with _named_failures():
                self._loop.inbox.put(self._preparer.task(message))
        except OknoError as error:
            self._loop.arrivals.arrived(id)
            self._wire.send(Events(failed=[Failed(id, error.info)]))

    def _call(self, message: Tokenize | Detokenize | Embed | Recall) -> None:
        try:
            with _named_failures():
                self._answer(message)
        except OknoError as error:
            self._loop.arrivals.arrived(message.call)
            self._wire.send(CallFailed(message.call, error.info))

    def _resize(self, message: Resize) -> None:
        try:
            with _named_failures():
                done = resize(self._engine, message, self._loop.used_cells, self._loop.inbox.put)
                if done is not None:
                    self._wire.send(done)
        except OknoError as error:
            self._wire.send(CallFailed(message.call, error.info))
        finally:
            self._loop.arrivals.arrived(message.call)

    def _answer(self, message: Tokenize | Detokenize | Embed | Recall) -> None:
        match message:
            case Tokenize():
                self._loop.arrivals.arrived(message.call)
                self._wire.send(self._answers.tokenized(message))
            case Detokenize():
                self._loop.arrivals.arrived(message.call)
                self._wire.send(self._answers.detokenized(message))
            case Embed():
                self._loop.inbox.put(self._answers.embed_job(message))
            case Recall(call, last):
                self._loop.arrivals.arrived(call)
                log = self._loop.meter.log
                self._wire.send(Recalled(call, log.last(last), log.count))

    def _beat(self) -> None:
        with _or_end():
            while True:
                self._send_trace()
                self._send_heartbeat()
                time.sleep(HEARTBEAT_S)

    def _send_trace(self) -> None:
        """The steps since the last time, if they are traced."""
        meter = self._loop.meter
        if self._tracing and (steps := meter.log.after(self._traced)):
            self._traced = steps[-1].step
            self._wire.send(Traced(meter.began_s, steps))

    def _send_heartbeat(self) -> None:
        loop = self._loop
        self._wire.send(
            Heartbeat(
                loops=loop.loops,
                steps=loop.steps,
                rows=loop.rows,
                live=loop.live,
                waiting=loop.waiting,
                used_cells=loop.used_cells,
                pool_cells=self._engine.limits.pool_cells,
                process_bytes=self._process.memory_info().rss,
                patience=loop.patience,
                tally=loop.meter.tally,
            )
        )


@contextmanager
def _or_end() -> Iterator[None]:
    """Whatever breaks one of the process's own threads ends the process at once, with the reason
    on stderr: the server replaces it. A worker that goes on without one would look alive."""
    try:
        yield
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


@contextmanager
def _named_failures() -> Iterator[None]:
    """A defect of ours in a preparing thread fails that one request, by name, with the traceback
    in the worker's log, instead of leaving its client waiting."""
    try:
        yield
    except OknoError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise EngineFailed(
            f"Preparing the request failed inside okno ({type(error).__name__}: {error}). "
            "This is a defect of okno; the log of the worker has the traceback."
        ) from error


if __name__ == "__main__":
    main()
