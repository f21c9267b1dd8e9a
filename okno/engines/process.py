"""One worker process from the server's side: start it, exchange frames, learn how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

import msgspec

from okno.core.machine import DEVICE_ORDER
from okno.core.python import import_path, module_command
from okno.engines.protocol import (
    HEADER,
    FromWorker,
    Shutdown,
    ToWorker,
    WorkerOptions,
    decode_from_worker,
    frame,
)

log = logging.getLogger("okno.worker")
STDERR_LINES = 40
LINE_BYTES = 4096  # longer ones are cut
READ_BYTES = 65536
HUGE_PAGES = "glibc.malloc.hugetlb"


class _Frames(asyncio.Protocol):
    """Cuts the byte stream into messages; a frame cut short by a death is dropped."""

    def __init__(self, on_message: Callable[[FromWorker], None]) -> None:
        self._on_message = on_message
        self._buffer = bytearray()
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has other ancestors

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= HEADER.size:
            end = at + HEADER.size + HEADER.unpack_from(buffer, at)[0]
            if end > len(buffer):
                break
            self._on_message(decode_from_worker(memoryview(buffer)[at + HEADER.size : end]))
            at = end
        if at:
            del buffer[:at]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


class WorkerProcess:
    """A started worker. `on_message` is called on the event loop for every frame."""

    def __init__(self, process: asyncio.subprocess.Process, frames: _Frames) -> None:
        self._process = process
        self._frames = frames
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._reading = asyncio.create_task(self._read_stderr())
        self._killed_because: str | None = None

    @classmethod
    async def start(
        cls, options: WorkerOptions, on_message: Callable[[FromWorker], None]
    ) -> WorkerProcess:
        """Spawn the process and send it its options."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *module_command("okno.engines.worker", str(theirs.fileno())),
                pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE, env=worker_environment(),
            )  # fmt: skip
        frames = _Frames(on_message)
        await asyncio.get_running_loop().create_unix_connection(lambda: frames, sock=ours)
        worker = cls(process, frames)
        body = msgspec.msgpack.encode(options)
        worker._write(HEADER.pack(len(body)) + body)
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        """Queue a message; to a dead worker it is dropped, its death is noticed elsewhere."""
        self._write(frame(message))

    def kill(self, because: str) -> None:
        """SIGKILL, which also ends a stopped or hung process."""
        self._killed_because = because
        if self._process.returncode is None:
            self._process.kill()

    async def ended(self) -> str:
        """Wait for the end of the process; how it ended, for people."""
        await self._frames.lost.wait()
        code = await self._process.wait()
        await self._reading
        if self._frames.transport is not None:
            self._frames.transport.close()
        return self._killed_because or describe_exit(code, list(self._stderr))

    async def stop(self, timeout_s: float) -> None:
        """Ask it to exit, then kill it."""
        self.send(Shutdown())
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self.kill("stopped")
            await self._process.wait()

    def _write(self, data: bytes) -> None:
        transport = self._frames.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        while data := await self._process.stderr.read(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[:LINE_BYTES]
            for line in lines:
                self._keep_line(line)
        self._keep_line(rest)

    def _keep_line(self, raw: bytes) -> None:
        line = raw[:LINE_BYTES].decode(errors="replace").rstrip()
        if line:
            self._stderr.append(line)
            log.info("%s", line)


def describe_exit(code: int, stderr: list[str]) -> str:
    """`killed by SIGKILL` or `exit status 1`, with the last line it wrote."""
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    if code == -signal.SIGKILL:
        return f"{how} (by hand, or by the kernel when memory ran out)"
    last = next((line for line in reversed(stderr) if line.strip()), "")
    return f"{how}: {last}" if last else how


def worker_environment() -> dict[str, str]:
    """The environment of a worker. GOMP_SPINCOUNT: threads that wait for each other after every
    operation sleep after a short spin instead of a long one; on a machine with other work the
    long one makes decoding many times slower (docs/decisions.md). TOKENIZERS_PARALLELISM: texts
    are encoded beside decoding, which has its own threads. GLIBC_TUNABLES: weights and KV cache in
    huge pages where the kernel gives them when asked. DEVICE_ORDER: the ids that okno plans
    with are the engine's. The user's own settings win."""
    chosen = {"GOMP_SPINCOUNT": "3000", "TOKENIZERS_PARALLELISM": "false"} | DEVICE_ORDER
    fixed = {
        "GGML_NO_BACKTRACE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": import_path(),
        "GLIBC_TUNABLES": with_huge_pages(os.environ.get("GLIBC_TUNABLES", "")),
    }
    return chosen | os.environ | fixed


def with_huge_pages(tunables: str) -> str:
    """`tunables` of the GNU C library, and that large allocations ask for huge pages unless they
    say otherwise. Other C libraries ignore them."""
    settings = [setting for setting in tunables.split(":") if setting]
    if not any(setting.startswith(f"{HUGE_PAGES}=") for setting in settings):
        settings.append(f"{HUGE_PAGES}=1")
    return ":".join(settings)
