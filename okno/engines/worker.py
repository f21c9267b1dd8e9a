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
from okno.engines.engine import Engine
from okno.engines.loop import EmbedJob, EngineLoop, Leave
from okno.engines.prepare import Preparer
from okno.engines.protocol import (
    CallFailed,
    Cancel,
    CancelCall,
    Detokenize,
    Detokenized,
    Embed,
    Events,
    Heartbeat,
    Inspect,
    LoadFailed,
    Loading,
    Ready,
    Shutdown,
    Submit,
    Tokenize,
    Tokenized,
    ToWorker,
    WorkerOptions,
    decode_to_worker,
)
from okno.engines.sandbox import Sandbox
from okno.engines.transport import FrameSocket

HEARTBEAT_S = 0.25
PREPARE_THREADS = 4
PR_SET_PDEATHSIG = 1
LOAD_FAILED_EXIT = 3


def main() -> None:
    """Entry point: the socket's file descriptor is the first argument."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends us
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
        self._loop = EngineLoop(engine, wire.send, time.monotonic)
        self._sandbox = Sandbox(template_timeout_s=options.template_timeout_s)
        self._preparer = Preparer(engine, self._sandbox)
        self._prepare = ThreadPoolExecutor(PREPARE_THREADS, thread_name_prefix="prepare")
        self._calls = ThreadPoolExecutor(1, thread_name_prefix="calls")
        self._process = psutil.Process()

    def run(self) -> None:
        """Serve until the process ends."""
        engine = self._engine
        self._wire.send(Ready(engine.facts, engine.window, engine.memory(), engine.notes))
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        try:
            self._loop.run()
        except BaseException:  # noqa: BLE001 - whatever it is, this process ends with it
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # at once: other threads have nothing left to work for

    def _read(self) -> None:
        while (body := self._wire.receive()) is not None:
            self._dispatch(decode_to_worker(body))
        os._exit(0)

    def _dispatch(self, message: ToWorker) -> None:
        match message:
            case Submit():
                self._loop.preparing.add(message.request.id)
                self._prepare.submit(self._submit, message)
            case Cancel(id):
                self._loop.inbox.put(Leave(id))
            case Tokenize() | Detokenize() | Embed():
                self._calls.submit(self._call, message)
            case CancelCall() | Inspect():
                self._loop.inbox.put(message)
            case Shutdown():
                self._sandbox.close()
                os._exit(0)

    def _submit(self, message: Submit) -> None:
        id = message.request.id
        try:
            with _named_failures():
                self._loop.inbox.put(self._preparer.task(message))
        except OknoError as error:
            self._loop.preparing.discard(id)
            self._loop.inbox.put(Leave(id))
            self._wire.send(Events(failed=[Failed(id, error.info)]))

    def _call(self, message: Tokenize | Detokenize | Embed) -> None:
        try:
            with _named_failures():
                self._answer(message)
        except OknoError as error:
            self._wire.send(CallFailed(message.call, error.info))

    def _answer(self, message: Tokenize | Detokenize | Embed) -> None:
        match message:
            case Tokenize():
                self._wire.send(self._tokenized(message))
            case Detokenize():
                self._wire.send(self._detokenized(message))
            case Embed():
                self._loop.inbox.put(self._embed_job(message))

    def _tokenized(self, call: Tokenize) -> Tokenized:
        vocab = self._engine.vocab
        if call.messages is not None:
            now = time.time()
            text = self._preparer.render(call.messages, continue_last=call.continue_last, now_s=now)
            tokens = self._preparer.encode_chat(text)
        else:
            text = call.text or ""
            tokens = vocab.encode(
                text, add_special=call.add_special, parse_special=call.parse_special
            )
        pieces = [vocab.label(t) for t in tokens] if call.with_pieces else []
        return Tokenized(call.call, tokens, pieces, text)

    def _detokenized(self, call: Detokenize) -> Detokenized:
        vocab = self._engine.vocab
        tokens = self._preparer.checked_ids(call.tokens, param="tokens")
        read = vocab.label if call.special else vocab.pieces.__getitem__
        return Detokenized(call.call, b"".join(map(read, tokens)))

    def _embed_job(self, call: Embed) -> EmbedJob:
        inputs = [
            self._engine.vocab.encode(item, add_special=True, parse_special=False)
            if isinstance(item, str)
            else self._preparer.checked_ids(item, param="input")
            for item in call.inputs
        ]
        return EmbedJob(call.call, inputs, call.normalize, self._embedding_note())

    def _embedding_note(self) -> str:
        facts = self._engine.facts
        if facts.is_embedding_model:
            return ""
        return (
            f"{facts.name} is not an embedding model: these are its last hidden states, averaged "
            "over the input. For search, serve an embedding model."
        )

    def _beat(self) -> None:
        loop = self._loop
        while True:
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
                )
            )
            time.sleep(HEARTBEAT_S)


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
