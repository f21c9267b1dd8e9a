"""uvicorn's httptools protocol with bounds on what one socket may cost.

httptools reads headers without any limit; here: the size and number of header lines and the
request line (431), the time until they are complete (408), how long a body nobody reads is
swallowed, how long a client may leave its socket full (the connection is dropped, which cancels
its request), and how many connections there may be (503).
Everything is a counter or a timer: nothing is spent per token.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from okno.server.settings import ServerSettings

LINGER_S = 2.0
HEADER_LINE_COST = 32  # bytes of our own per header line, so that many tiny ones also count

REFUSALS = {
    400: (b"400 Bad Request", "This is not valid HTTP.", "invalid_http"),
    408: (b"408 Request Timeout", "The request's headers took too long.", "request_timeout"),
    431: (
        b"431 Request Header Fields Too Large",
        "The request line and headers are too large, or too many.",
        "headers_too_large",
    ),
    503: (
        b"503 Service Unavailable\r\nretry-after: 1",
        "Too many open connections; come back in a second.",
        "too_many_connections",
    ),
}


class HeadTooLarge(Exception):
    """Raised inside the parser's callbacks to stop it."""


def guarded(settings: ServerSettings, max_connections: int | None = None) -> type[GuardedProtocol]:
    """The protocol class for `uvicorn.Config(http=...)` with these limits."""
    limits = {"settings": settings, "max_connections": max_connections}
    return type("Guarded", (GuardedProtocol,), limits)


class GuardedProtocol(HttpToolsProtocol):
    settings: ServerSettings
    max_connections: int | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True  # between messages, too: what comes next is a head
        self._all_head = True  # this piece of data held nothing but (part of) one head
        self._head_bytes = 0  # as parsed, exact
        self._raw_head_bytes = 0  # as received: the parser is silent within a line
        self._refusal = 400
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def _arm(self, name: str, seconds: float, action: Any) -> None:
        self._disarm(name)
        self._timers[name] = self.loop.call_later(seconds, action)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm("head", self.settings.header_timeout_s, self._head_late)
        if self.max_connections is not None and len(self.connections) > self.max_connections:
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._disarm(name)
        super().connection_lost(exc)

    # Headers -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._all_head = self._in_head
        super().data_received(data)
        if self._all_head:
            self._raw_head_bytes += len(data)
            if self._raw_head_bytes > self.settings.max_header_bytes:
                self._refuse(431)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._arm("head", self.settings.header_timeout_s, self._head_late)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + HEADER_LINE_COST)
        super().on_header(name, value)

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        too_many = self.headers is not None and len(self.headers) >= self.settings.max_headers
        if too_many or self._head_bytes > self.settings.max_header_bytes:
            self._refusal = 431
            raise HeadTooLarge

    def on_headers_complete(self) -> None:
        self._in_head = self._all_head = False
        self._raw_head_bytes = 0
        self._disarm("head")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal)

    def _head_late(self) -> None:
        self._refuse(408)

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        line, message, code = REFUSALS[status]
        kind = "unavailable_error" if status == 503 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        body = msgspec.json.encode({"error": error})
        self.transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (line, len(body), body)
        )
        self.transport.close()

    # Bodies nobody reads -----------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        unread = self.cycle.response_complete and self.cycle.more_body
        if unread and not self.transport.is_closing():
            self._arm("linger", LINGER_S, self.transport.close)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._disarm("linger")
        super().on_message_complete()

    # Slow readers ------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm("writing", self.settings.stalled_reader_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._disarm("writing")
        super().resume_writing()
