"""A server process of one's own, `okno serve` or another: started, waited for, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from okno.bench.client import Address, get
from okno.core.python import import_path, module_command

POLL_S = 0.1
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: its address, process, and the file with what it printed."""

    address: Address
    process: subprocess.Popen[bytes]
    log: Path

    def worker_pid(self) -> int:
        """The process that holds the model: the largest child of the server."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        if not children:
            raise RuntimeError("the server has no worker process")
        return max(children, key=lambda child: child.memory_info().rss).pid


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """How a server is started. name: for messages; command: its command line on a port;
    ready_path: answers 200 once the model is loaded."""

    name: str
    command: Callable[[int], Sequence[str]]
    environment: Mapping[str, str]
    ready_path: str = "/health"


def command(options: Sequence[str], port: int) -> list[str]:
    """The command line of `okno serve` in this Python."""
    return module_command("okno.cli.main", "serve", *options, "--port", str(port))


def environment() -> dict[str, str]:
    """Of an `okno serve` that imports what this process does and knows no settings of the user."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OKNO_")}
    return kept | {"OKNO_CONFIG": "none", "PYTHONPATH": import_path()}


@asynccontextmanager
async def serve(
    options: Sequence[str], log: Path, *, ready_timeout_s: float = 180.0
) -> AsyncIterator[Served]:
    """Start `okno serve OPTIONS` on a free port, yield it when /health is ok, stop it at the end.

    Raises RuntimeError with the end of its log when it does not become ready, or does not end
    with status 0 after SIGTERM.
    """
    program = ServerProgram("okno serve", lambda port: command(options, port), environment())
    async with started(program, log, ready_timeout_s=ready_timeout_s) as served:
        yield served
    status = served.process.returncode
    if status != 0:
        raise RuntimeError(f"okno serve ended with status {status}:\n{_tail(log)}")


@asynccontextmanager
async def started(
    program: ServerProgram, log: Path, *, ready_timeout_s: float = 180.0
) -> AsyncIterator[Served]:
    """Start a server on a free port, yield it when it is ready, stop it at the end.

    Raises RuntimeError with the end of its log when it does not become ready.
    """
    address = Address("127.0.0.1", _free_port())
    with log.open("wb") as output:
        served = Served(address, _start(program, address.port, output), log)
        try:
            await _until_ready(program, served, ready_timeout_s)
            yield served
        finally:
            _stop(served.process)


def _start(program: ServerProgram, port: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program.command(port),
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=program.environment,
    )  # fmt: skip


async def _until_ready(program: ServerProgram, served: Served, timeout_s: float) -> None:
    deadline, name = time.monotonic() + timeout_s, program.name
    while not await _healthy(served.address, program.ready_path):
        if served.process.poll() is not None:
            raise RuntimeError(f"{name} ended while loading:\n{_tail(served.log)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} was not ready in {timeout_s} s:\n{_tail(served.log)}")
        await asyncio.sleep(POLL_S)


async def _healthy(address: Address, path: str) -> bool:
    try:
        status, _ = await get(address, path)
    except ConnectionError:
        return False
    return status == 200


def _stop(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, then SIGKILL when it takes too long; the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path, count: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
