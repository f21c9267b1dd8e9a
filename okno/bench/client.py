"""A small HTTP client for measuring: one socket per request, times of every event, rude exits.

httptools (the parser that serves okno's other end) keeps its cost per token far below the
server's, and the bare socket lets a client leave at any moment.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httptools

READ_BYTES = 64 * 1024
JSON = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens; tls: it speaks HTTPS."""

    host: str
    port: int
    tls: bool = False

    @property
    def authority(self) -> str:
        """host:port as the Host header has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Exchange:
    """One request and its answer on a socket of its own; `open` sends the request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._has_head = False
        self._complete = False

    @classmethod
    async def open(
        cls, to: Address, method: str, path: str, body: JSON | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Exchange:  # fmt: skip
        """Connect and send. A `bytes` body is sent as it is, labelled JSON."""
        reader, writer = await asyncio.open_connection(to.host, to.port, ssl=to.tls or None)
        content = json.dumps(body).encode() if isinstance(body, Mapping) else body or b""
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {to.authority}\r\nConnection: close\r\n{more}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        await writer.drain()
        return cls(reader, writer)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._has_head = True

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._complete = True

    async def status(self) -> int:
        """The HTTP status, as soon as it is there."""
        while not self._has_head:
            await self._receive()
        return int(self._parser.get_status_code())

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in the pieces in which it arrives. Raises ConnectionError when it breaks off."""
        while True:
            if self._body:
                arrived, self._body = b"".join(self._body), []
                yield arrived
            if self._complete:
                return
            await self._receive()

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.chunks()])

    async def events(self) -> AsyncIterator[Any]:
        """The decoded `data:` line of each server-sent event, up to [DONE]. Lines end in LF or
        CRLF; comments and other fields are skipped."""
        async for line in self._lines():
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)

    async def _lines(self) -> AsyncIterator[bytes]:
        """The body's whole lines, as soon as they are there."""
        pending = b""
        async for piece in self.chunks():
            *whole, pending = (pending + piece).split(b"\n")
            for line in whole:
                yield line

    async def _receive(self) -> None:
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection in mid-answer")
        self._parser.feed_data(data)

    def abort(self) -> None:
        """Leave with a reset (RST): what was sent and not yet read is lost on both sides."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def hang_up(self) -> None:
        """Leave without waiting: the connection is closed (FIN) in the middle of the answer."""
        self._writer.close()

    async def close(self) -> None:
        """Leave in good order."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:  # reset, or TLS not ended in good order
            return


async def get(to: Address, path: str) -> tuple[int, bytes]:
    """Status and body of a GET."""
    return await call(to, "GET", path)


async def call(
    to: Address, method: str, path: str, body: JSON | bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:  # fmt: skip
    """Status and body of one request."""
    exchange = await Exchange.open(to, method, path, body, headers)
    try:
        return await exchange.status(), await exchange.body()
    finally:
        await exchange.close()


def delta_text(event: Any) -> str:
    """The text that one event of a chat or text completion brings."""
    choices = event.get("choices") or [{}]
    choice = choices[0]
    text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
    return text or ""
