from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from okno.bench import client
from okno.bench.client import Address, Exchange, call, delta_text

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SSE = b'data: {"n": 1}\n\n: keep-alive\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


@asynccontextmanager
async def server(answer: bytes, seen: list[bytes] | None = None) -> AsyncIterator[Address]:
    """Answers every connection with `answer`, then closes it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as listening:
        yield Address(*listening.sockets[0].getsockname())


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_arrive_whole_however_the_bytes_are_cut(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_BYTES", size)
    async with server(HEAD + chunked(SSE, 9)) as address:
        exchange = await Exchange.open(address, "POST", "/", {})
        assert await exchange.status() == 200
        assert [event async for event in exchange.events()] == [{"n": 1}, {"n": 2}]
        await exchange.close()


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    async with server(HEAD + chunked(SSE, 1000)[:30]) as address:
        exchange = await Exchange.open(address, "POST", "/", {})
        with pytest.raises(ConnectionError):
            [event async for event in exchange.events()]
        exchange.abort()


async def test_a_call_gives_status_and_body_and_sends_json() -> None:
    seen: list[bytes] = []
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
    async with server(answer, seen) as address:
        assert await call(address, "POST", "/path", {"a": 1}) == (404, b"no")
    assert seen[0].startswith(b"POST /path HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\nContent-Length: 8\r\n" in seen[0]


def test_the_text_of_chat_and_text_events() -> None:
    assert delta_text({"choices": [{"delta": {"content": "a"}}]}) == "a"
    assert delta_text({"choices": [{"delta": {"role": "assistant"}}]}) == ""
    assert delta_text({"choices": [{"text": "b"}]}) == "b"
    assert delta_text({"choices": [], "usage": {}}) == ""
