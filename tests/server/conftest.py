from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest

from okno.server.app import create_app
from okno.server.run import Server, base_url, configured
from okno.server.settings import ServerSettings
from tests.server.fake_engine import FakeEngine

Start = Callable[..., Awaitable[str]]


class UnsignalledServer(Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings(model="fake", aliases=("nick",))


@pytest.fixture
async def client(engine: FakeEngine, settings: ServerSettings) -> AsyncIterator[httpx.AsyncClient]:
    """The application without sockets."""
    transport = httpx.ASGITransport(create_app(engine, settings), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as found:
        yield found


@pytest.fixture
async def start(engine: FakeEngine) -> AsyncIterator[Start]:
    """Start the application on a real loopback socket; returns its base URL."""
    running: list[tuple[Server, asyncio.Task[None]]] = []

    async def go(**options: object) -> str:
        settings = ServerSettings(**{"model": "fake", "port": 0, **options})  # type: ignore[arg-type]
        listener = socket.create_server(("127.0.0.1", 0))
        server = UnsignalledServer(configured(engine, settings), engine, 0)
        ready = asyncio.Event()
        server.on_ready = ready.set
        running.append((server, asyncio.create_task(server.serve([listener]))))
        await ready.wait()
        return base_url("127.0.0.1", listener)

    yield go
    for server, task in running:
        server.should_exit = True
        server.force_exit = True
        await task
