"""A small real HTTP server that answers completions like an OpenAI-compatible one, or badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from okno.bench.client import Address


@dataclass
class Stub:
    """How it behaves. texts: of one answer; usage: whether token counts are told; ends: how a
    stream ends: `done`, `cut` (in mid-chunk), `silent` (no finish_reason), `error` (an event),
    `hold` (never, until the stub is closed), or a function of the body that says so; together:
    answers begin when so many requests are there; seen: the bodies of streamed requests; keys:
    the Authorization headers of all."""

    texts: tuple[str, ...] = ("a", "b", "c")
    usage: bool = True
    completion_tokens: int | None = None
    finish_reason: str = "length"
    ends: str | Callable[[dict[str, Any]], str] = "done"
    newline: bytes = b"\n"
    status: int = 200
    error: bytes = b'{"error": {"message": "no"}}'
    models: tuple[str, ...] | None = ("stub",)
    paths: tuple[str, ...] = ("/v1/completions", "/v1/chat/completions")
    together: int = 1
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate = threading.Barrier(self.together)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.stub.models is not None:
            self.reply(200, json.dumps({"data": [{"id": n} for n in self.stub.models]}).encode())
        else:
            self.reply(404, b"not here")

    def do_POST(self) -> None:
        stub = self.stub
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub.keys.append(self.headers["Authorization"])
        if self.path not in stub.paths:
            self.reply(404, b'{"detail": "Not Found"}')
        elif stub.status != 200:
            self.reply(stub.status, stub.error)
        elif not body.get("stream"):
            self.reply(200, json.dumps({"choices": [], "usage": self.counts(7)}).encode())
        else:
            stub.seen.append(body)
            stub.gate.wait()
            ends = stub.ends(body) if callable(stub.ends) else stub.ends
            self.stream(ends, chat="messages" in body)

    def stream(self, ends: str, *, chat: bool) -> None:
        stub = self.stub
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk(b": working" + 2 * stub.newline)
        for text in stub.texts:
            part = {"delta": {"content": text}} if chat else {"text": text}
            self.event({"choices": [{**part, "finish_reason": None}]})
        if ends == "hold":
            stub.closed.wait()
        if ends == "cut":
            self.wfile.write(b"ff\r\ndata: {")
            self.close_connection = True
            return
        if ends == "error":
            self.event({"error": {"message": "out of cells"}})
        elif ends == "done":
            self.finish_answer(chat)
        self.wfile.write(b"0\r\n\r\n")

    def finish_answer(self, chat: bool) -> None:
        stub = self.stub
        part = {"delta": {}} if chat else {"text": ""}
        self.event({"choices": [{**part, "finish_reason": stub.finish_reason}]})
        if stub.usage:
            made = stub.completion_tokens
            self.event({"choices": [], "usage": self.counts(len(stub.texts) if made is None
                                                            else made)})  # fmt: skip
        self.chunk(b"data: [DONE]" + 2 * stub.newline)

    def counts(self, completion: int) -> dict[str, int]:
        return {"prompt_tokens": 11, "completion_tokens": completion}

    def event(self, value: object) -> None:
        self.chunk(b"data: " + json.dumps(value).encode() + 2 * self.stub.newline)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 makes a burst of clients wait a second
    daemon_threads = True


@contextmanager
def serving(stub: Stub) -> Iterator[Address]:
    """The stub on a port of its own, until the end of the block."""
    handler = type("Handling", (Handler,), {"stub": stub})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Address("127.0.0.1", server.server_address[1])
    finally:
        stub.closed.set()
        stub.gate.abort()
        server.shutdown()
        thread.join()
        server.server_close()
