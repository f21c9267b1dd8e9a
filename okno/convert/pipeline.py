"""A checkpoint written as GGUF: tensor by tensor, in little memory, with all cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from okno.convert.checkpoint import Checkpoint
from okno.convert.fields import Field
from okno.convert.ordered import in_order, usable_threads
from okno.convert.packed_jobs import packed_jobs
from okno.convert.planned import Planned
from okno.convert.progress import Progress
from okno.convert.work import Job, plain_jobs
from okno.core.header import TensorInfo
from okno.inspect.gguf_write import gguf_header, padded

STAGE = "Converting"
SETTLED_S = 1.0  # before that the time left is a guess


@dataclass(slots=True)
class Meter:
    """How far the work is. Tells `progress` at most ten times a second."""

    progress: Progress
    stage: str
    clock: Callable[[], float] = time.monotonic
    total_bytes: int = field(default=0, init=False)
    done_bytes: int = field(default=0, init=False)
    began_s: float = field(default=0.0, init=False)
    told_s: float = field(default=-1.0, init=False)

    def begin(self, total_bytes: int) -> None:
        self.total_bytes, self.began_s = total_bytes, self.clock()
        self.progress(self.stage, 0, total_bytes, None)

    def add(self, n_bytes: int) -> None:
        self.done_bytes += n_bytes
        now = self.clock()
        if now - self.told_s < 0.1 and self.done_bytes < self.total_bytes:
            return
        self.told_s = now
        spent = now - self.began_s
        left = spent * (self.total_bytes - self.done_bytes) / max(self.done_bytes, 1)
        known = left if spent > SETTLED_S else None
        self.progress(self.stage, self.done_bytes, self.total_bytes, known)


def file_bytes(plan: Planned, values: Mapping[str, Field]) -> int:
    """How large the GGUF will be."""
    data = sum(padded(tensor.n_bytes) for tensor in plan.tensors)
    return len(gguf_header(values, plan.tensors)) + data


def write_model(
    checkpoint: Checkpoint,
    plan: Planned,
    values: Mapping[str, Field],
    path: Path,
    progress: Progress,
    last_values: Callable[[], Mapping[str, Field]] = dict,
) -> None:
    """Write the GGUF to `path`, on the disk for good when this returns.

    last_values: values that are known at the end only; they replace those of `values`, and must
    take as many bytes. Raises ModelUnusable for a source that fails, OSError for the target.
    """
    write_gguf(
        path,
        lambda last: gguf_header({**values, **(last_values() if last else {})}, plan.tensors),
        plan.tensors,
        list(_jobs(checkpoint, plan)),
        Meter(progress, STAGE),
    )


def write_gguf(
    path: Path,
    header: Callable[[bool], bytes],
    tensors: Sequence[TensorInfo],
    jobs: Sequence[tuple[int, Job]],
    meter: Meter,
) -> None:
    """Write a GGUF file to `path`, on the disk for good when this returns.

    header: what is before the data; asked again (with True) when the data is written. jobs: with
    the number of the tensor each writes to, in the order of the file.
    """
    meter.begin(sum(job.source_bytes for _, job in jobs))
    first = header(False)
    with path.open("wb", buffering=0) as file:
        _write(file, first)
        _write_tensors(file, tensors, jobs, meter)
        final = header(True)
        assert len(final) == len(first), (len(final), len(first))
        file.seek(0)
        _write(file, final)
        os.fsync(file.fileno())


def _write_tensors(
    file: BinaryIO, tensors: Sequence[TensorInfo], jobs: Sequence[tuple[int, Job]], meter: Meter
) -> None:
    results = in_order((job.make for _, job in jobs), usable_threads())
    written = dict.fromkeys(range(len(tensors)), 0)
    for (number, job), data in zip(jobs, results, strict=True):
        _write(file, data.data)
        written[number] += data.nbytes
        tensor = tensors[number]
        if written[number] == tensor.n_bytes:
            _write(file, bytes(padded(tensor.n_bytes) - tensor.n_bytes))
        meter.add(job.source_bytes)
    short = [t.name for n, t in enumerate(tensors) if written[n] != t.n_bytes]
    assert not short, f"tensors with other sizes than announced: {short[:3]}"


def _jobs(checkpoint: Checkpoint, plan: Planned) -> Iterator[tuple[int, Job]]:
    """All work in the order of the file, with the number of its tensor."""
    head_dim = checkpoint.described.sizes.head_dim
    for number, (target, tensor) in enumerate(zip(plan.targets, plan.tensors, strict=True)):
        packed = plan.packed.get(target.name)
        jobs = (
            plain_jobs(checkpoint, target, tensor.type, head_dim, plan.family.norm_shift)
            if packed is None
            else packed_jobs(checkpoint, packed)
        )
        yield from ((number, job) for job in jobs)


def _write(file: BinaryIO, data: bytes | memoryview) -> None:
    """All of it: an unbuffered file may take less at once."""
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    while view:
        view = view[file.write(view) :]
