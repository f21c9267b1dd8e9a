"""Frames over the worker's end of the socket: blocking, one reader, writers behind a lock."""

from __future__ import annotations

import socket
import threading

from okno.engines.protocol import HEADER, MAX_FRAME_BYTES, FromWorker, frame


class FrameSocket:
    """The worker's side. Closing by the other side ends `receive` with None."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._write = threading.Lock()

    def send(self, message: FromWorker) -> None:
        data = frame(message)
        with self._write:
            self._socket.sendall(data)

    def receive(self) -> bytes | None:
        """The next frame's body; None when the other side is gone."""
        try:
            header = self._file.read(HEADER.size)
            if len(header) < HEADER.size:
                return None
            (length,) = HEADER.unpack(header)
            body = self._file.read(min(length, MAX_FRAME_BYTES + 1))
        except ConnectionResetError:  # closed by the other side with bytes of ours unread
            return None
        return body if len(body) == length else None
