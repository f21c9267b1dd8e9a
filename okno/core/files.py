"""Files that users and publishers name: only regular ones are read.

A pipe or a device under the name of a model's file would be waited for or read without end.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

KINDS = (
    (stat.S_ISDIR, "it is a folder"), (stat.S_ISFIFO, "it is a pipe"),
    (stat.S_ISSOCK, "it is a socket"), (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
)  # fmt: skip


def open_file(path: Path) -> BufferedReader:
    """`path`, open for reading. The one door for files that somebody else named.

    Raises OSError, also (saying what it is) for what is no regular file; never waits for a pipe.
    ValueError for characters that no path has.
    """
    return open(path, "rb", opener=_opened)


def read_file(path: Path, most_bytes: int) -> bytes:
    """The content of `path`, at most so much of it. Errors as of `open_file`."""
    with open_file(path) as file:
        return file.read(most_bytes)


def what_it_is(mode: int) -> str | None:
    """Why a file of this mode is not read; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kind = next((told for is_kind, told in KINDS if is_kind(mode)), "it is something else")
    return f"{kind}, not a file"


def _opened(path: str, flags: int) -> int:
    """Opening does not wait for a pipe's other end; what was opened is what is looked at."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        wrong = what_it_is(os.fstat(descriptor).st_mode)
        if wrong is not None:
            raise OSError(errno.EINVAL, wrong, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
