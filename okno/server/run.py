"""Running the server: the socket, the limits of the process, signals and the orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import uvicorn

from okno.core.errors import BadSetting
from okno.engines.client import EngineClient
from okno.server.app import create_app
from okno.server.protocol import guarded
from okno.server.settings import ServerSettings

BACKLOG = 2048
LEAST_DESCRIPTORS = 128
WANTED_DESCRIPTORS = 65_536
RESERVED_DESCRIPTORS = 64  # the worker, its socket, files, the log
KEEP_ALIVE_S = 65  # longer than clients keep idle connections, so that they close first
GRACE_S = 5  # after the drain, for clients to read the last bytes


def configured(
    engine: EngineClient, settings: ServerSettings, max_connections: int | None = None
) -> uvicorn.Config:
    """uvicorn's configuration for our application."""
    return uvicorn.Config(
        create_app(engine, settings),
        http=guarded(settings, max_connections),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


async def serve(
    engine: EngineClient,
    settings: ServerSettings,
    *,
    on_ready: Callable[[str], None] | None = None,
    on_stopping: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal exits at once.

    on_ready is called with the base URL as soon as connections are accepted (the model may still
    be loading), on_stopping at the first signal, before the drain. The engine is drained but not
    closed. Raises BadSetting for a port that is taken, an address that is not ours, or too few file
    descriptors.
    """
    max_connections = raise_descriptor_limit() - RESERVED_DESCRIPTORS
    listener = listen(settings.host, settings.port)
    server = Server(configured(engine, settings, max_connections), engine, settings.drain_timeout_s)
    server.on_ready = lambda: on_ready(base_url(settings.host, listener)) if on_ready else None
    server.on_stopping = on_stopping or server.on_stopping
    try:
        await server.serve([listener])
    finally:
        server.close_listeners()
        listener.close()


def run(main: Coroutine[Any, Any, None]) -> None:
    """asyncio.run on uvloop, where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main)


class Server(uvicorn.Server):
    """uvicorn's server with our signals: drain first, and leave at once when asked again."""

    def __init__(self, config: uvicorn.Config, engine: EngineClient, drain_s: float) -> None:
        super().__init__(config)
        self.on_ready: Callable[[], None] = lambda: None
        self.on_stopping: Callable[[], None] = lambda: None
        self._engine = engine
        self._drain_s = drain_s
        self._stopping: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        wanted = (signal.SIGTERM, signal.SIGINT)
        for number in wanted:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in wanted:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()

    def _signalled(self, number: int) -> None:
        if self._stopping is not None:
            os._exit(128 + number)
        self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        """No new connections; running streams get up to drain_s, then their terminal event."""
        self.on_stopping()
        self.close_listeners()
        try:
            await self._engine.drain(self._drain_s)
        finally:
            self.should_exit = True

    def close_listeners(self) -> None:
        for server in getattr(self, "servers", ()):
            server.close()


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files as far as it may; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    limit = max(soft, min(highest, WANTED_DESCRIPTORS))
    if limit > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):  # on macOS the kernel may allow less (kern.maxfilesperproc)
            limit = soft
    if limit < LEAST_DESCRIPTORS:
        raise BadSetting(
            f"This process may open {limit} files (ulimit -n); at least {LEAST_DESCRIPTORS} are "
            "needed, one per connection. Raise it, for example with `ulimit -n 4096`.",
            param="ulimit -n",
        )
    return limit


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, or BadSetting that says what is wrong and what to change."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(info[4][:2], family=info[0], backlog=BACKLOG)
    except socket.gaierror:
        raise BadSetting(
            f"{host} is no address of this machine; choose another --host.", param="host"
        ) from None
    except OSError as error:
        raise BadSetting(socket_problem(error, host, port), param="port") from None


def socket_problem(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is in use, perhaps by another okno. "
            f"Stop that program, or choose another port: --port {port + 1}."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs administrator rights; choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; choose another --host."
    return f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another --port."


def base_url(host: str, listener: socket.socket) -> str:
    """The address to show: with the real port when any was asked for."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
