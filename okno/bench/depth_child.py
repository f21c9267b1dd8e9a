"""The child process of `okno depth`: reads a job from stdin, measures, writes to stdout.

python -m okno.bench.depth_child <job >replies
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import IO

from okno.bench.depth_job import (
    FromChild,
    Job,
    Measured,
    Progress,
    Refused,
    Stage,
    decode_job,
    read_frame,
    write_frame,
)
from okno.bench.depth_measure import measure
from okno.core.errors import OknoError
from okno.engines.llama_model import start_backend

STEPS = 200  # progress messages of a stage, at most


def run_job(job: Job, send: Callable[[FromChild], None]) -> None:
    """Do the job; what comes of it goes to `send`, errors a user can act on too."""
    try:
        found: Measured | Refused = measure(job, _thinned(send))
    except OknoError as error:
        found = Refused(error.info)
    send(found)


def _thinned(send: Callable[[FromChild], None]) -> Callable[[Stage, float], None]:
    """Progress that is only sent when it moved."""
    last: tuple[Stage, int] | None = None

    def progress(stage: Stage, fraction: float) -> None:
        nonlocal last
        step = (stage, int(fraction * STEPS))
        if step != last:
            last = step
            send(Progress(stage, fraction))

    return progress


def _own_stdout() -> IO[bytes]:
    """The pipe to the parent; whatever a library prints from now on goes to stderr."""
    ours = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return ours


def main() -> int:
    """Exit status 1: there was no job to read."""
    replies = _own_stdout()
    body = read_frame(sys.stdin.buffer)
    if body is None:
        return 1
    start_backend()
    try:
        run_job(decode_job(body), lambda message: write_frame(replies, message))
    except BrokenPipeError:  # the parent left
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
