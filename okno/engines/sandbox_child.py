"""The child of sandbox.py: renders templates and tries constraints until its parent is gone.

Started as `python -m okno.engines.sandbox_child PARENT_PID` with one socket as both standard
input and standard output. POSIX only.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys
from typing import BinaryIO

from llguidance import LLTokenizer

from okno.core.errors import OknoError
from okno.engines.constraint_grammar import byte_tokenizer, compile_grammar
from okno.engines.protocol import HEADER
from okno.engines.sandbox import Done, Job, Refused, RenderJob, Reply, decode_job, encode
from okno.engines.template import render

MEMORY_BYTES = 1024**3
STACK_BYTES = 1024**2  # less than any thread of the worker has: what fits here fits there
WORN_OUT_BYTES = 256 * 1024**2
OPEN_FILES = 16
GRACE_S = 0.5

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Serve jobs until the parent closes its end, or this process has grown too large."""
    jobs, replies = _take_channel()
    _die_with(parent=int(sys.argv[1]))
    tokenizer = byte_tokenizer()
    _limit_resources()
    reply: Reply = Done()
    while True:
        body = encode(reply)
        replies.write(HEADER.pack(len(body)) + body)
        replies.flush()
        header = jobs.read(HEADER.size)
        if len(header) < HEADER.size:
            return
        reply = _answer(decode_job(jobs.read(HEADER.unpack(header)[0])), tokenizer)
        reply.worn_out = _peak_bytes() > WORN_OUT_BYTES


def _answer(job: Job, tokenizer: LLTokenizer) -> Reply:
    _limit_time(job.limit_s + GRACE_S)
    try:
        if isinstance(job, RenderJob):
            return Done(_render(job))
        compile_grammar(job.constraint, tokenizer)
        return Done()
    except OknoError as error:
        return Refused(error.info)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _render(job: RenderJob) -> str:
    return render(
        job.template,
        job.messages,
        special_tokens=job.special_tokens,
        add_generation_prompt=job.add_generation_prompt,
        continue_last=job.continue_last,
        now_s=job.now_s,
    )


def _take_channel() -> tuple[BinaryIO, BinaryIO]:
    """The socket for ourselves, to read and to write; standard input and output are closed."""
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return jobs, replies


def _die_with(parent: int) -> None:
    """Linux: be killed when the parent ends. Elsewhere the closed socket and the clock do it."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def _limit_resources() -> None:
    """Memory, stack and open files; no file can be written, no core dumped."""
    for kind, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_STACK, STACK_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _limit_time(limit_s: float) -> None:
    """Be killed after limit_s of wall time, and of processor time (to the next second)."""
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed_s = math.ceil(used.ru_utime + used.ru_stime + limit_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (allowed_s, resource.RLIM_INFINITY))


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
