"""Predicted against measured memory, and the closed form against the engine's own dry run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec

from okno.bench.memory_cases import Case, cases
from okno.bench.report import environment, percentile, publish, table
from okno.bench.shapes import PRESETS, write_gguf
from okno.bench.worker_memory import measure_overhead, worker_peak
from okno.core.machine import Machine
from okno.core.plan import MemoryParts
from okno.engines.dry_run import DryRun
from okno.engines.dry_run_wire import OUTPUT_STEP_BYTES
from okno.engines.protocol import WorkerOptions
from okno.inspect.hardware.machine import this_machine
from okno.inspect.header import read_header
from okno.plan.memory import ClosedForm, Overhead

MIB = 2**20
BOUND_SHARE, BOUND_BYTES = 0.02, 64 * MIB
RESULTS = "plan-accuracy-memory.jsonl"
OUT = Path("docs/benchmarks/plan-accuracy-memory.md")
PARTS = ("weights", "repacked", "kv", "state", "output", "compute")


class Result(msgspec.Struct):
    """One case. closed, engine: bytes by part, from the header alone and from the dry run."""

    name: str
    shape: str
    predicted_bytes: int
    peak_bytes: int
    loaded_bytes: int
    margin_bytes: int
    seconds: float
    closed: dict[str, int]
    engine: dict[str, int]

    @property
    def error_bytes(self) -> int:
        """Predicted minus measured."""
        return self.predicted_bytes - self.peak_bytes

    @property
    def share_of_bound(self) -> float:
        """1.0: as wrong as may be (2 % of the measured, at least 64 MiB)."""
        return abs(self.error_bytes) / max(BOUND_SHARE * self.peak_bytes, BOUND_BYTES)


@dataclass(frozen=True, slots=True)
class _Bench:
    folder: Path
    machine: Machine
    overhead: Overhead
    tell: Callable[[str], None]


def run(
    folder: Path,
    *,
    out: Path | None = OUT,
    wanted: str | None = None,
    keep: bool = False,
    tell: Callable[[str], None] = print,
) -> list[Result]:
    """Measure the cases (all, or those `wanted` names), one process at a time, and publish the
    report to `out`.

    Shape models are made in `folder`, used again when present, and removed after their last case
    unless keep. Results are kept there too: a run that was broken off goes on where it was.
    Raises EngineFailed when a worker fails, OSError when the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine = this_machine()
    overhead = measure_overhead(machine)
    tell(f"process overhead {overhead.process_bytes / MIB:.1f} MiB")
    bench = _Bench(folder, machine, overhead, tell)
    chosen = cases(wanted)
    done = _kept(folder / RESULTS)
    by_model = groupby(sorted(chosen, key=lambda case: case.model), key=lambda case: case.model)
    for _, group in by_model:
        left = [case for case in group if case.name not in done]
        if left:
            _measure_model(bench, left, done, keep=keep)
    results = [done[case.name] for case in chosen]
    publish(report(results, overhead), out)
    return results


def _measure_model(bench: _Bench, left: list[Case], done: dict[str, Result], *, keep: bool) -> None:
    path = bench.folder / f"{left[0].model}.gguf"
    ours = not path.exists()
    if ours:
        bench.tell(f"writing {path.name}")
        write_gguf(PRESETS[left[0].shape], path, left[0].file_type)
    try:
        for case in left:
            result = done[case.name] = _measure(bench, case, path)
            with (bench.folder / RESULTS).open("ab") as file:
                file.write(msgspec.json.encode(result) + b"\n")
            bench.tell(_line(result))
    finally:
        if ours and not keep:
            path.unlink(missing_ok=True)


def _measure(bench: _Bench, case: Case, path: Path) -> Result:
    """The prediction first, from the header alone; then the engine's dry run; then the worker."""
    header = read_header(path)
    plan = ClosedForm(header, bench.machine, bench.overhead).memory(case.load)
    with DryRun(path, header) as dry_run:
        told = dry_run.memory(case.load)
    peak = worker_peak(_options(case, path))
    return Result(
        name=case.name,
        shape=case.shape,
        predicted_bytes=plan.devices[0].parts.needed_bytes,
        peak_bytes=peak.peak_bytes,
        loaded_bytes=peak.loaded_bytes,
        margin_bytes=plan.margin_bytes,
        seconds=peak.seconds,
        closed=_by_part(plan.devices[0].parts),
        engine=_by_part(told.devices[0].parts),
    )


def _options(case: Case, path: Path) -> WorkerOptions:
    return WorkerOptions(
        model_path=str(path), name=case.shape, batch_size=case.batch_size, ctx=case.ctx,
        kv_type=case.kv_type, mmap=case.mmap, flash_attention=case.flash_attention,
    )  # fmt: skip


def _by_part(parts: MemoryParts) -> dict[str, int]:
    return {name: getattr(parts, f"{name}_bytes") for name in PARTS}


def _kept(path: Path) -> dict[str, Result]:
    if not path.exists():
        return {}
    lines = path.read_bytes().splitlines()
    results = (msgspec.json.decode(line, type=Result) for line in lines)
    return {result.name: result for result in results}


# The report ---------------------------------------------------------------------------------------


def report(results: Sequence[Result], overhead: Overhead) -> str:
    """Markdown: summary, closed form against dry run, every case."""
    errors = [abs(result.error_bytes) / MIB for result in results]
    shares = [result.share_of_bound for result in results]
    within = sum(share <= 1 for share in shares)
    covered = sum(r.peak_bytes <= r.predicted_bytes + r.margin_bytes for r in results)
    families = {result.shape for result in results}
    lines = [
        "# Predicted and measured memory",
        "",
        "Predicted from the header alone, before loading; measured is the peak of RssAnon + "
        "RssShmem of a worker process (`python -m okno.bench.full_context`) whose sequences are "
        "all filled to the end of the window, by decoding in full steps. Shape models carry random "
        "weights.",
        "",
        environment(),
        f"{len(results)} cases, {len(families)} shapes. Process overhead learnt on this machine: "
        f"{overhead.process_bytes / MIB:.1f} MiB.",
        "",
        f"Absolute error: p50 {percentile(errors, 50):.1f} MiB, p95 {percentile(errors, 95):.1f} "
        f"MiB, largest {max(errors, default=math.nan):.1f} MiB. Within max(2 %, 64 MiB): {within} "
        f"of {len(results)}; at p95 the error is {100 * percentile(shares, 95):.0f} % of that "
        f"bound. Peak within prediction and margin: {covered} of {len(results)}.",
        "",
        "## The closed form against the engine's dry run",
        "",
        "Largest relative difference over the cases of a shape; `exact` is to the byte, and for "
        "`output`, which the engine only logs, to the 0.01 MiB of its log.",
        "",
        table(["Shape", *PARTS], [[shape, *_differences(results, shape)] for shape in
                                  sorted(families)]),
        "## Cases",
        "",
        table(
            ["Model, batch x ctx, KV", "predicted MiB", "measured MiB", "error MiB", "error %",
             "ready MiB", "s"],
            [_row(result) for result in results],
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def _differences(results: Sequence[Result], shape: str) -> Iterator[str]:
    for part in PARTS:
        pairs = [(r.closed[part], r.engine[part]) for r in results if r.shape == shape]
        step = OUTPUT_STEP_BYTES if part == "output" else 1
        wrong = (pair for pair in pairs if abs(pair[0] - pair[1]) >= step)
        worst = max((abs(ours - theirs) / max(theirs, 1) for ours, theirs in wrong), default=0.0)
        yield "exact" if worst == 0 else f"{100 * worst:.2f} %"


def _row(result: Result) -> list[object]:
    error = result.error_bytes
    return [
        result.name, f"{result.predicted_bytes / MIB:,.1f}", f"{result.peak_bytes / MIB:,.1f}",
        f"{error / MIB:+.1f}", f"{100 * error / result.peak_bytes:+.1f}",
        f"{result.loaded_bytes / MIB:,.1f}", f"{result.seconds:.0f}",
    ]  # fmt: skip


def _line(result: Result) -> str:
    return (
        f"{result.name}: predicted {result.predicted_bytes / MIB:,.1f}, measured "
        f"{result.peak_bytes / MIB:,.1f} MiB ({result.error_bytes / MIB:+.1f}), "
        f"{result.seconds:.0f} s"
    )
