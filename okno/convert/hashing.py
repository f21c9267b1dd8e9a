"""Sources hashed while they are converted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from okno.convert.provenance import Sources


@contextmanager
def hashing(sources: Sources) -> Iterator[Future[dict[str, str]]]:
    """Hashes the sources meanwhile: they are read for the conversion anyway, so they come from
    memory and not from the disk. Stops when the conversion fails."""
    stopped = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        try:
            yield pool.submit(sources.hashes, stopped)
        finally:
            stopped.set()
