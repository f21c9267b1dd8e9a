"""A child process that answers one question at a time over a socket pair: the child's side.

It has one socket as both standard input and standard output (asked_child.py). POSIX only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import BinaryIO

from okno.engines.protocol import HEADER

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


class Channel:
    """The socket for ourselves; standard input and output go nowhere, whatever C code prints."""

    def __init__(self) -> None:
        self._jobs: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._replies: BinaryIO = os.fdopen(os.dup(1), "wb")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)

    def jobs(self) -> Iterator[bytes]:
        """Bodies of questions, until the parent closes its end."""
        while len(header := self._jobs.read(HEADER.size)) == HEADER.size:
            yield self._jobs.read(HEADER.unpack(header)[0])

    def reply(self, body: bytes) -> None:
        self._replies.write(HEADER.pack(len(body)) + body)
        self._replies.flush()


def die_with(parent: int) -> None:
    """Linux: be killed when the parent ends. Elsewhere the closed socket does it."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def limit_resource(kind: int, value: int) -> None:
    """Limit ourselves for good to `value` (resource.RLIMIT_*), or to less where we already are."""
    hard = resource.getrlimit(kind)[1]
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))
