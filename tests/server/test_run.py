"""The server as a process: signals, ports, file descriptors."""

from __future__ import annotations

import asyncio
import json
import resource
import shlex
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from okno.core.errors import BadSetting
from okno.server.run import listen, raise_descriptor_limit
from okno.server.settings import ServerSettings
from tests.server.conftest import UnsignalledServer, configured
from tests.server.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
STREAM: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


@asynccontextmanager
async def process(*args: str, before: str = "") -> AsyncIterator[Process]:
    """A server process; `before` are shell commands that run in it first."""
    command = shlex.join([sys.executable, "-m", "tests.server.serve_fake", *args])
    child = await asyncio.create_subprocess_shell(f"{before} exec {command}", stdout=PIPE)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def line(child: Process) -> str:
    assert child.stdout is not None
    return (await child.stdout.readline()).decode().strip()


async def started(client: httpx.AsyncClient, url: str, stack: AsyncExitStack) -> Any:
    """A stream that has shown its first token; the iterator of its further lines."""
    answer = await stack.enter_async_context(client.stream("POST", url + CHAT, json=STREAM))
    lines = answer.aiter_lines()
    async for text in lines:
        if "Hello" in text:
            return lines
    raise AssertionError("the stream ended early")


async def rest(lines: Any) -> list[Any]:
    data = [text.removeprefix("data: ") async for text in lines if text.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(text) for text in data[:-1]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_streams_finish_and_the_exit_is_0(number: signal.Signals) -> None:
    async with process("0", "60", "finish") as child, httpx.AsyncClient() as client:
        url = await line(child)
        async with AsyncExitStack() as stack:
            streams = [await started(client, url, stack) for _ in range(50)]
            child.send_signal(number)
            for chunks in await asyncio.gather(*(rest(lines) for lines in streams)):
                assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert await child.wait() == 0


async def test_streams_that_outlast_the_drain_get_their_one_terminal_event() -> None:
    async with process("0", "0.2") as child, httpx.AsyncClient() as client:
        url = await line(child)
        async with AsyncExitStack() as stack:
            streams = [await started(client, url, stack) for _ in range(50)]
            child.send_signal(signal.SIGTERM)
            for chunks in await asyncio.gather(*(rest(lines) for lines in streams)):
                assert [c for c in chunks if "error" in c] == [chunks[-1]]
                assert chunks[-1]["error"]["code"] == "model_not_ready"
        assert await child.wait() == 0


async def test_new_connections_are_refused_while_draining() -> None:
    async with process("0", "60") as child, httpx.AsyncClient() as client:
        url = await line(child)
        async with AsyncExitStack() as stack:
            await started(client, url, stack)
            child.send_signal(signal.SIGTERM)
            assert await line(child) == "draining"
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{url}/health")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_exits_at_once(second: signal.Signals) -> None:
    async with process("0", "3600") as child, httpx.AsyncClient() as client:
        url = await line(child)
        async with AsyncExitStack() as stack:
            await started(client, url, stack)
            child.send_signal(signal.SIGTERM)
            assert await line(child) == "draining"
            child.send_signal(second)
            assert await child.wait() == 128 + second


async def test_an_idle_server_exits_0() -> None:
    async with process("0", "60") as child:
        await line(child)
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0


async def test_a_busy_port_is_named_with_what_to_do() -> None:
    async with process("0", "1") as first:
        port = (await line(first)).rpartition(":")[2]
        async with process(port, "1") as second:
            said = await line(second)
            assert await second.wait() == 2
    assert f"Port {port} on 127.0.0.1 is in use" in said
    assert "--port" in said


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(BadSetting, match=f"{host} is no address of this machine"):
        listen(host, 0)


async def test_too_few_file_descriptors_are_said_with_what_to_do() -> None:
    async with process("0", "1", before="ulimit -n 64;") as child:
        said = await line(child)
        assert await child.wait() == 2
    assert "64" in said
    assert "ulimit -n" in said


async def test_a_low_soft_limit_is_raised() -> None:
    async with process("0", "1", before="ulimit -S -n 64;") as child:
        url = httpx.URL(await line(child))
        opened = await asyncio.gather(
            *(asyncio.open_connection(url.host, url.port) for _ in range(100))
        )
        async with httpx.AsyncClient() as client:
            assert (await client.get(url.join("/health"))).status_code == 200
        for _, writer in opened:
            writer.transport.abort()


@pytest.mark.parametrize("error", [ValueError, PermissionError])
def test_a_kernel_that_allows_less_than_the_hard_limit_leaves_the_soft_one(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """As macOS does: the hard limit is infinite, kern.maxfilesperproc is not."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    assert raise_descriptor_limit() == 256
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, resource.RLIM_INFINITY))
    with pytest.raises(BadSetting, match="may open 64 files"):
        raise_descriptor_limit()


async def test_connections_beyond_the_limit_get_a_503_and_those_within_go_on() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    engine = FakeEngine()
    server = UnsignalledServer(configured(engine, ServerSettings(), 2), engine, 0)
    ready = asyncio.Event()
    server.on_ready = ready.set
    task = asyncio.create_task(server.serve([listener]))
    await ready.wait()
    port = listener.getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/health")).status_code == 200
        _, waiting = await asyncio.open_connection("127.0.0.1", port)
        reader, third = await asyncio.open_connection("127.0.0.1", port)
        assert b" 503 " in await reader.readline()
        assert (await client.get("/health")).status_code == 200
    for writer in (waiting, third):
        writer.transport.abort()
    server.should_exit = True
    await task
