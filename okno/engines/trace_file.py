"""`--trace FILE`: every step, written as it runs.

The file is a JSON array whose closing bracket may be missing, as the format allows, and each batch
of steps is one write: it is good at any moment, also after a SIGKILL.

The server writes it, from records that the worker sends with its heartbeats: the file goes on when
a worker dies and is replaced, its formatting takes nothing from the engine's process, and a process
that reads untrusted models opens no file for writing. The price: the last quarter of a second of a
worker that dies is missing.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import stat
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from okno.core.errors import BadSetting
from okno.core.paths import expanded
from okno.engines.protocol import Traced
from okno.engines.trace import Tracks

log = logging.getLogger("okno.trace")

MOST_BYTES = 1 << 30  # viewers take less
WAITING_BATCHES = 256  # about a minute, for a disk that does not answer
CLOSING_S = 5.0

_encode = msgspec.json.Encoder().encode


class TraceFile:
    """Writes batches in a thread of its own, in their order. A disk that fails or is full, or a
    file that has become too long, ends the trace with a warning; nothing else notices.

    What was in the file goes with the first write. Raises BadSetting when it cannot be opened, or
    holds something that is no trace.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path = expanded(path, BadSetting)
        self._file = _opened(self._path)
        self._most_bytes = most_bytes
        self._bytes = 0
        self._tracks = Tracks()
        self._batches: queue.Queue[Traced | None] = queue.Queue(WAITING_BATCHES)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._thread.start()

    def take(self, batch: Traced) -> None:
        """Queue `batch`; never waits."""
        if self._ended.is_set():
            return
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self._end("the disk is too slow")

    def close(self) -> None:
        """Write what is queued and the closing bracket, if the disk still answers."""
        with suppress(queue.Full):
            self._batches.put(None, timeout=CLOSING_S)
        self._thread.join(CLOSING_S)

    def _run(self) -> None:
        with self._file:
            while (batch := self._batches.get()) is not None:
                self._append(b",\n".join(map(_encode, self._tracks.events(batch))))
            self._append(b"]\n", separator=b"\n")

    def _append(self, text: bytes, separator: bytes = b",\n") -> None:
        if self._ended.is_set():
            return
        try:
            self._write((separator if self._bytes else b"[\n") + text)
        except OSError as error:
            self._end(error.strerror or str(error))
        if self._bytes > self._most_bytes:
            self._end(f"it has {self._bytes:,} bytes, which is the limit")

    def _write(self, text: bytes) -> None:
        """All of `text`, or the file stays as it is."""
        if not self._bytes:
            self._file.truncate(0)
        if self._file.write(text) != len(text):
            self._file.truncate(self._bytes)
            raise OSError("the disk is full")
        self._bytes += len(text)

    def _end(self, because: str) -> None:
        self._ended.set()
        log.warning("the trace in %s ends here: %s", self._path, because)


def _opened(path: Path) -> io.FileIO:
    """The file, unbuffered, at its begin; nothing of it is changed yet."""
    try:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
    except OSError as error:
        raise BadSetting(
            f"The trace cannot be written to {path}: {error.strerror}. Give --trace a file in a "
            "folder that is there and that you may write to.",
            param="trace",
        ) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or file.read(1) not in (b"", b"["):
        file.close()
        raise BadSetting(
            f"{path} is there and is no trace, so it is not overwritten. Give --trace another "
            "name.",
            param="trace",
        )
    file.seek(0)
    return file
