"""Hostile and vanishing clients, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.server.conftest import Start
from tests.server.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
JSON_HEAD = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Streams]:
    where = httpx.URL(url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    yield reader, writer
    writer.transport.abort()


def post(body: bytes, path: str = CHAT, extra: bytes = b"") -> bytes:
    head = JSON_HEAD % path.encode() + extra
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


async def status_of(streams: Streams) -> int:
    line = await streams[0].readline()
    return int(line.split()[1])


async def exchange(url: str, data: bytes) -> tuple[int, bytes]:
    """Send bytes, read until the server closes or the answer is complete."""
    async with connection(url) as (reader, writer):
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = [x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")]
        body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
        return int(head.split()[1]), body


# Clients that leave -----------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stage", ["queue", "prefill", "decode"])
async def test_a_client_that_leaves_frees_its_sequences(
    engine: FakeEngine,
    start: Start,
    streamed: bool,
    n: int,
    stage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = engine.accept if stage == "queue" else engine.step
    gate.clear()
    url = await start()
    body = json.dumps({**HELLO, "stream": streamed, "n": n}).encode()
    async with connection(url) as (reader, writer):
        writer.write(post(body))
        await engine.until(count_open=n)
        if streamed and stage != "queue":
            await reader.readuntil(b"assistant")
        if stage == "decode" and streamed:
            engine.step.set()
            engine.step.clear()
            await reader.readuntil(b"Hello")
    await engine.until(count_cancelled=n)
    assert engine.open == set()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/health")).status_code == 200
    assert caplog.text == ""


async def test_a_client_that_leaves_during_embedding_cancels_it(
    engine: FakeEngine, start: Start
) -> None:
    engine.embed_gate.clear()
    url = await start()
    async with connection(url) as (_, writer):
        writer.write(post(b'{"input":"a"}', "/v1/embeddings"))
        await engine.until(count_open=1)
    await engine.until(count_cancelled=1)
    assert engine.cancelled == ["embed"]


async def test_many_clients_that_leave_at_once_leave_nothing(
    engine: FakeEngine, start: Start
) -> None:
    engine.step.clear()
    url = httpx.URL(await start())
    body = post(json.dumps({**HELLO, "stream": True}).encode())
    opened = await asyncio.gather(
        *(asyncio.open_connection(url.host, url.port) for _ in range(200))
    )
    for _, writer in opened:
        writer.write(body)
    await engine.until(count_open=200)
    for _, writer in opened:
        writer.transport.abort()
    await engine.until(count_cancelled=200)
    assert engine.open == set()


async def test_a_client_that_leaves_in_its_body_reaches_no_engine(
    engine: FakeEngine, start: Start
) -> None:
    url = await start()
    async with connection(url) as (_, writer):
        writer.write(JSON_HEAD % CHAT.encode() + b"content-length: 100\r\n\r\n{")
        await writer.drain()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/health")).status_code == 200
    assert engine.seen == []


async def test_a_reader_that_stops_reading_is_cancelled(engine: FakeEngine, start: Start) -> None:
    engine.answer = ["x" * 100_000] * 200
    url = await start(stalled_reader_s=0.05)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    where = httpx.URL(url)
    await asyncio.get_running_loop().sock_connect(sock, (where.host, where.port))
    body = post(json.dumps({**HELLO, "stream": True}).encode())
    await asyncio.get_running_loop().sock_sendall(sock, body)
    await engine.until(count_cancelled=1)
    assert engine.open == set()
    sock.close()


# Malformed and oversized ------------------------------------------------------------------------

HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = JSON_HEAD % CHAT.encode() + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * 65_536 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 431),
        (b"GET /" + b"x" * 65_536, 431),
        (HEAD + b"a: " + b"x" * 65_536 + b"\r\n\r\n", 431),
        (HEAD + b"a: " + b"x" * 65_536, 431),
        (HEAD + b"x" * 65_536, 431),
        (HEAD + b"a: b\r\n" * 10_000 + b"\r\n", 431),
        (HEAD + b"a: b\r\n" * 200 + b"\r\n", 431),
        (HEAD + b"a: b\r\n" * 50 + b"\r\n", 200),
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
        (HEAD + b"content-length: -5\r\n\r\n", 400),
        (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
        (HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (CHUNKED + b"-5\r\n", 400),
        (CHUNKED + b"zz\r\n", 400),
        (CHUNKED + b"f" * 40 + b"\r\n", 400),
        (post(b"{}", extra=b"content-encoding: gzip\r\n"), 415),
        (JSON_HEAD % CHAT.encode() + b"transfer-encoding: gzip, chunked\r\n\r\n", 415),
        (JSON_HEAD % CHAT.encode() + b"content-length: 99999999999\r\n\r\n", 413),
        (b"GET /health HTTP/1.1\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n", 403),
        (HEAD + b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x\r\n\r\n", 403),
        (b"GET http://evil.example/health HTTP/1.1\r\nhost: evil.example\r\n\r\n", 403),
        (b"GET /%00%ff HTTP/1.1\r\nhost: localhost\r\n\r\n", 404),
    ],
    ids=lambda value: repr(value[:50]) + repr(value[-20:]) if isinstance(value, bytes) else value,
)
async def test_what_is_no_proper_request_gets_a_4xx(
    engine: FakeEngine, start: Start, data: bytes, status: int
) -> None:
    url = await start()
    got, body = await exchange(url, data)
    assert got == status
    assert "error" in json.loads(body) or status == 200
    assert engine.seen == []


async def test_an_endless_chunked_body_is_refused_while_it_comes(
    engine: FakeEngine, start: Start
) -> None:
    url = await start(max_body_bytes=100_000)
    async with connection(url) as streams:
        streams[1].write(CHUNKED)
        answer = asyncio.create_task(status_of(streams))
        sent_bytes = 0
        while not answer.done():
            streams[1].write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            await asyncio.wait({answer}, timeout=0)
            await asyncio.sleep(0)
            sent_bytes += 10_000
        assert await answer == 413
        assert sent_bytes < 50_000_000
        async with asyncio.timeout(30):  # it goes on, until the server has enough
            while not streams[1].transport.is_closing():
                streams[1].write(b"1\r\nx\r\n")
                await asyncio.sleep(0)


async def test_a_body_at_the_limit_passes_and_one_byte_more_does_not(start: Start) -> None:
    body = json.dumps(HELLO).encode()
    url = await start(max_body_bytes=len(body))
    assert (await exchange(url, post(body)))[0] == 200
    assert (await exchange(url, post(body + b" ")))[0] == 413


async def test_dripping_heads_and_bodies_are_dropped(start: Start) -> None:
    url = await start(header_timeout_s=0.05, body_timeout_s=0.05)
    for data in (b"", b"GET /hea", HEAD, HEAD + b"a: "):
        async with connection(url) as streams:
            streams[1].write(data)
            assert await status_of(streams) == 408
    async with connection(url) as streams:
        streams[1].write(JSON_HEAD % CHAT.encode() + b"content-length: 10\r\n\r\n{")
        assert await status_of(streams) == 408


async def test_health_answers_beside_500_dripping_sockets(start: Start) -> None:
    url = httpx.URL(await start())
    opened = await asyncio.gather(
        *(asyncio.open_connection(url.host, url.port) for _ in range(400))
    )
    for _, writer in opened:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: lo")
    async with httpx.AsyncClient() as client:
        assert (await client.get(url.join("/health"))).status_code == 200
    for _, writer in opened:
        writer.transport.abort()


async def test_one_connection_serves_many_requests(engine: FakeEngine, start: Start) -> None:
    url = await start(header_timeout_s=0.2)
    body = post(json.dumps(HELLO).encode())
    async with connection(url) as (reader, writer):
        for _ in range(3):
            writer.write(body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(x for x in head.lower().split(b"\r\n") if b"content-length" in x)
            await reader.readexactly(int(length.split(b":")[1]))
            assert head.startswith(b"HTTP/1.1 200")
    assert len(engine.seen) == 3


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    url = await start()
    async with connection(url) as (reader, writer):
        writer.write((HEAD + b"\r\n") * 2 + HEAD + b"connection: close\r\n\r\n")
        answer = await reader.read()
    assert answer.count(b"HTTP/1.1 200") == 3
