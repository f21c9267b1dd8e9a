"""A child process that answers one question at a time over a socket pair: the parent's side.

Frames are 4 bytes little-endian length and a body. The child's side is asked_process.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping

from okno.core.python import import_path, module_command
from okno.engines.protocol import HEADER

READ_BYTES = 1 << 20


class AskedChild:
    """The started process and our end of the socket.

    module: run as `python -m MODULE OUR_PID`. environment: all the child gets, beside the path to
    this package. The parent-death signal comes when the *thread* that started the child ends, so
    start it from one that stays.
    """

    def __init__(self, module: str, environment: Mapping[str, str], max_reply_bytes: int) -> None:
        self._max_reply_bytes = max_reply_bytes
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                module_command(module, str(os.getpid())),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env={**environment, "PYTHONPATH": import_path()},
                close_fds=True,
            )
        self.pid = self._process.pid

    def is_dead(self) -> bool:
        """It ended since it was last asked."""
        return self._process.poll() is not None

    def ask(self, body: bytes, timeout_s: float) -> bytearray:
        """The body of its reply. Raises TimeoutError, or another OSError if the child died."""
        deadline = time.monotonic() + timeout_s
        self._socket.settimeout(timeout_s)
        self._socket.sendall(HEADER.pack(len(body)) + body)
        return self._receive(deadline)

    def receive(self, timeout_s: float) -> bytearray:
        """A body it sends unasked, such as that it is ready. Raises as `ask` does."""
        return self._receive(time.monotonic() + timeout_s)

    def end(self) -> None:
        """Kill it, whatever it is doing."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def how_it_ended(self) -> str:
        """The signal or exit status of a child that closed its end."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its end, or did not answer"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def _receive(self, deadline: float) -> bytearray:
        (size,) = HEADER.unpack(self._read(HEADER.size, deadline))
        if size > self._max_reply_bytes:
            raise ConnectionError(f"a reply of {size} bytes")
        return self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytearray:
        got = bytearray()
        while len(got) < size:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            part = self._socket.recv(min(size - len(got), READ_BYTES))
            if not part:
                raise ConnectionError("its process ended")
            got += part
        return got
