"""`okno depth`: what a window, a KV type and a quantisation buy in quality, on one text.

The model runs in a child process (depth_child.py); here its losses become a DepthCurve.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from okno.bench.depth_job import (
    Job,
    Measured,
    Progress,
    Refused,
    Stage,
    VariantRun,
    decode_reply,
    floats,
    read_frame,
    write_frame,
)
from okno.bench.depth_stats import Floats, bits, buckets, mean_with_interval, of_positions
from okno.bench.depth_text import DepthText
from okno.core.errors import EngineFailed, from_info
from okno.core.plan import Figure
from okno.core.python import module_command
from okno.engines.process import describe_exit, worker_environment
from okno.plan.depth import Cost, DepthCurve, PositionLoss, WindowLoss
from okno.store.identity import model_identity

Report = Callable[[Stage, float], None]
CHARS_PER_TOKEN = 16  # more than usual text has; what is beyond is not sent to the child
CHILD = "okno.bench.depth_child"
ZERO = Figure(0.0, 0.0, 0.0, "measured")


def measure_depth(job: Job, text: DepthText, report: Report) -> DepthCurve:
    """Run `job` on `text` (its own documents are ignored) and make the curve.

    Raises ModelUnusable, BadSetting, DoesNotFit, EngineFailed.
    """
    identity = model_identity(Path(job.model_path))
    return curve_of(run_child(with_text(job, text), report), job.name, text, identity)


def with_text(job: Job, text: DepthText) -> Job:
    """The job with as much of `text` as it can use."""
    room = job.max_tokens * CHARS_PER_TOKEN
    kept: list[str] = []
    for document in text.documents:
        kept.append(document[: max(0, room)])
        room -= len(document)
    used = tuple(document for document in kept if document)
    return msgspec.structs.replace(job, documents=used, special=text.special)


def run_child(job: Job, report: Report) -> Measured:
    """Measure in a child process. Raises the child's own error, and EngineFailed if it dies."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            module_command(CHILD),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=worker_environment(),
        )
        with process:
            try:
                found = _converse(process, job, report)
                if found is None:
                    raise _died(process.wait(), said)
                return found
            finally:
                process.kill()


def _converse(process: subprocess.Popen[bytes], job: Job, report: Report) -> Measured | None:
    """What the child measured; None if it ended without a word."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        write_frame(process.stdin, job)
    except BrokenPipeError:
        return None
    while body := read_frame(process.stdout):
        match decode_reply(body):
            case Measured() as found:
                return found
            case Refused(error):
                raise from_info(error)
            case Progress(stage, fraction):
                report(stage, fraction)
    return None


def _died(code: int, said: IO[bytes]) -> EngineFailed:
    said.seek(0)
    lines = said.read().decode(errors="replace").splitlines()
    return EngineFailed(
        f"The process that measured the model ended early ({describe_exit(code, lines)}). If "
        "memory ran out, ask for a smaller --ctx or fewer --kv-types."
    )


# From losses to the curve -----------------------------------------------------------------------


def curve_of(found: Measured, name: str, text: DepthText, identity: str) -> DepthCurve:
    """Means and intervals of what the child measured. identity: the model's
    (store.identity.model_identity)."""
    passes = [floats(raw) for raw in found.losses]
    windows = [(run.ctx, _joined(run.losses)) for run in found.windows]
    return DepthCurve(
        model=identity,
        model_name=name,
        text=text.identity,
        text_name=text.name,
        ctx_train=found.ctx_train,
        n_tokens=sum(map(len, passes)),
        n_passes=len(passes),
        n_judged=len(windows[0][1]),
        positions=tuple(_positions(passes)),
        windows=tuple(_windows(windows)),
        kv_types=tuple(map(_cost, found.kv_types)),
        weights=_cost(found.weights) if found.weights else None,
        notes=found.notes,
    )


def _positions(passes: Sequence[Floats]) -> Iterator[PositionLoss]:
    for first, last in buckets(max(map(len, passes))):
        values = of_positions(passes, first, last)
        if len(values):
            yield PositionLoss(first, last, len(values), bits(values))


def _windows(windows: Sequence[tuple[int, Floats]]) -> Iterator[WindowLoss]:
    """Differences are taken token by token, so that what is hard for every window cancels."""
    widest = windows[-1][1]
    for number, (ctx, losses) in enumerate(windows):
        gain = bits(windows[number - 1][1] - losses) if number else None
        lost = ZERO if losses is widest else bits(losses - widest)
        yield WindowLoss(ctx, bits(losses), lost, gain)


def _cost(run: VariantRun) -> Cost:
    agree = np.concatenate([np.frombuffer(raw, dtype=np.uint8) for raw in run.agree])
    return Cost(
        run.name,
        run.reference,
        kl_bits=bits(_joined(run.kl)),
        top1=mean_with_interval(agree.astype(np.float64)),
        lost_bits=bits(_joined(run.lost)),
    )


def _joined(parts: Sequence[bytes]) -> Floats:
    return np.concatenate([floats(raw) for raw in parts])
