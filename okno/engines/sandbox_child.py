"""The child of sandbox.py: renders templates and tries constraints until its parent is gone.

Started as `python -m okno.engines.sandbox_child PARENT_PID` with one socket as both standard
input and standard output. POSIX only.
"""

from __future__ import annotations

import math
import resource
import signal
import sys
from pathlib import Path

from llguidance import LLTokenizer

from okno.core.errors import OknoError
from okno.engines.asked_process import Channel, die_with, limit_resource
from okno.engines.constraint_grammar import byte_tokenizer, compile_grammar
from okno.engines.sandbox import Done, Job, Refused, RenderJob, Reply, decode_job, encode
from okno.engines.template import render

MEMORY_BYTES = 1024**3
STACK_BYTES = 1024**2  # less than any thread of the worker has: what fits here fits there
WORN_OUT_BYTES = 256 * 1024**2
OPEN_FILES = 16
GRACE_S = 0.5


def main() -> None:
    """Serve jobs until the parent closes its end, or this process has grown too large."""
    channel = Channel()
    die_with(parent=int(sys.argv[1]))
    tokenizer = byte_tokenizer()
    _limit_resources()
    channel.reply(encode(Done()))
    for job in channel.jobs():
        reply = _answer(decode_job(job), tokenizer)
        reply.worn_out = _peak_bytes() > WORN_OUT_BYTES
        channel.reply(encode(reply))


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


def _limit_resources() -> None:
    """Memory, stack and open files; no file can be written, no core dumped."""
    for kind, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_STACK, STACK_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        limit_resource(kind, value)


def _limit_time(limit_s: float) -> None:
    """Be killed after limit_s of wall time, and of processor time (to the next second)."""
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed_s = math.ceil(used.ru_utime + used.ru_stime + limit_s) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = allowed_s if hard == resource.RLIM_INFINITY else min(allowed_s, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _peak_bytes() -> int:
    """Most memory since this program began. Linux counts in ru_maxrss what the process held that
    started us: a worker with a large model wore out every child with its first job."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(
            1024 * int(line.split()[1])
            for line in status.read_text().splitlines()
            if line.startswith("VmHWM:")
        )
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
