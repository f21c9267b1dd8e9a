"""Predicted against measured memory, and the closed form against the engine's own dry run.

Measured peaks are kept, because a run takes hours; predictions are always those of this okno, made
from a header alone when the report is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from okno.bench.kept_peaks import Measured, engine_version, keep_peak, kept_peaks
from okno.bench.memory_cases import Case, cases
from okno.bench.report import environment, percentile, publish, revision, table
from okno.bench.shapes import PRESETS, write_gguf, write_header
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
UNRECORDED = "unknown (machine and engine too)"


@dataclass(frozen=True, slots=True)
class Predicted:
    """closed, engine: bytes by part, from the header alone and from the dry run."""

    needed_bytes: int
    margin_bytes: int
    closed: dict[str, int]
    engine: dict[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """One case."""

    shape: str
    predicted: Predicted
    measured: Measured

    @property
    def name(self) -> str:
        return self.measured.name

    @property
    def error_bytes(self) -> int:
        """Predicted minus measured."""
        return self.predicted.needed_bytes - self.measured.peak_bytes

    @property
    def share_of_bound(self) -> float:
        """1.0: as wrong as may be (2 % of the measured, at least 64 MiB)."""
        return abs(self.error_bytes) / max(BOUND_SHARE * self.measured.peak_bytes, BOUND_BYTES)

    @property
    def is_covered(self) -> bool:
        """The peak is within prediction and margin."""
        return self.measured.peak_bytes <= self.predicted.needed_bytes + self.predicted.margin_bytes


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
    unless keep. What was measured is kept there too, and measured again only on another
    machine or with another engine. Raises BadSetting when `wanted` names no case, EngineFailed when
    a worker fails, OSError when the disk is full.
    """
    chosen = cases(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    machine = this_machine()
    overhead = measure_overhead(machine)
    tell(f"process overhead {overhead.process_bytes / MIB:.1f} MiB")
    bench = _Bench(folder, machine, overhead, tell)
    done = kept_peaks(folder / RESULTS, machine.fingerprint)
    results: dict[str, Result] = {}
    by_model = groupby(sorted(chosen, key=lambda case: case.model), key=lambda case: case.model)
    for _, group in by_model:
        for result in _of_model(bench, list(group), done, keep=keep):
            results[result.name] = result
    in_order = [results[case.name] for case in chosen]
    publish(report(in_order, overhead), out)
    return in_order


def _of_model(
    bench: _Bench, group: list[Case], done: dict[str, Measured], *, keep: bool
) -> Iterator[Result]:
    """The cases of one model: all predicted first, then measured where that is not `done`."""
    predicted = _predicted(bench, group)
    left = [case for case in group if case.name not in done]
    fresh = {one.name: one for one in _measured(bench, left, predicted, keep=keep)}
    for case in group:
        measured = fresh.get(case.name) or done[case.name]
        yield Result(case.shape, predicted[case.name], measured)


def _predicted(bench: _Bench, group: list[Case]) -> dict[str, Predicted]:
    """By name, from a header that is written for this: the model itself may be gone."""
    first = group[0]
    with TemporaryDirectory(dir=bench.folder) as made:
        path = Path(made) / f"{first.model}.gguf"
        write_header(PRESETS[first.shape], path, first.file_type)
        header = read_header(path)
        closed = ClosedForm(header, bench.machine, bench.overhead)
        with DryRun(path, header) as dry_run:
            return {case.name: _prediction(case, closed, dry_run) for case in group}


def _prediction(case: Case, closed: ClosedForm, dry_run: DryRun) -> Predicted:
    plan, told = closed.memory(case.load), dry_run.memory(case.load)
    parts = plan.devices[0].parts
    return Predicted(
        parts.needed_bytes, plan.margin_bytes, _by_part(parts), _by_part(told.devices[0].parts)
    )


def _measured(
    bench: _Bench, left: list[Case], predicted: dict[str, Predicted], *, keep: bool
) -> Iterator[Measured]:
    """Each of the cases `left` of one model, kept as soon as it is there."""
    if not left:
        return
    path = bench.folder / f"{left[0].model}.gguf"
    ours = not path.exists()
    if ours:
        bench.tell(f"writing {path.name}")
        write_gguf(PRESETS[left[0].shape], path, left[0].file_type)
    try:
        for case in left:
            measured = _measure(bench, case, path)
            keep_peak(bench.folder / RESULTS, measured)
            bench.tell(_line(Result(case.shape, predicted[case.name], measured)))
            yield measured
    finally:
        if ours and not keep:
            path.unlink(missing_ok=True)


def _measure(bench: _Bench, case: Case, path: Path) -> Measured:
    peak = worker_peak(_options(case, path))
    return Measured(
        case.name, peak.peak_bytes, peak.loaded_bytes, peak.seconds,
        bench.machine.fingerprint, engine_version(), revision(),
    )  # fmt: skip


def _options(case: Case, path: Path) -> WorkerOptions:
    return WorkerOptions(
        model_path=str(path), name=case.shape, batch_size=case.batch_size, ctx=case.ctx,
        kv_type=case.kv_type, mmap=case.mmap, flash_attention=case.flash_attention,
    )  # fmt: skip


def _by_part(parts: MemoryParts) -> dict[str, int]:
    return {name: getattr(parts, f"{name}_bytes") for name in PARTS}


# The report ---------------------------------------------------------------------------------------


def report(results: Sequence[Result], overhead: Overhead) -> str:
    """Markdown: summary, closed form against dry run, every case."""
    errors = [abs(result.error_bytes) / MIB for result in results]
    shares = [result.share_of_bound for result in results]
    within = sum(share <= 1 for share in shares)
    covered = sum(result.is_covered for result in results)
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
        f"{overhead.process_bytes / MIB:.1f} MiB. {_revisions(results)}",
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


def _revisions(results: Sequence[Result]) -> str:
    """By which okno the figures are."""
    counts = Counter(result.measured.revision for result in results)
    measured = ", ".join(f"{told or UNRECORDED}: {count} cases" for told, count in counts.items())
    return (
        f"Predicted by revision {revision()}: {len(results)} cases. Measured by revision "
        f"{measured}."
    )


def _differences(results: Sequence[Result], shape: str) -> Iterator[str]:
    for part in PARTS:
        predicted = (r.predicted for r in results if r.shape == shape)
        pairs = [(one.closed[part], one.engine[part]) for one in predicted]
        step = OUTPUT_STEP_BYTES if part == "output" else 1
        wrong = (pair for pair in pairs if abs(pair[0] - pair[1]) >= step)
        worst = max((abs(ours - theirs) / max(theirs, 1) for ours, theirs in wrong), default=0.0)
        yield "exact" if worst == 0 else f"{100 * worst:.2f} %"


def _row(result: Result) -> list[object]:
    error, measured = result.error_bytes, result.measured
    return [
        result.name, f"{result.predicted.needed_bytes / MIB:,.1f}",
        f"{measured.peak_bytes / MIB:,.1f}", f"{error / MIB:+.1f}",
        f"{100 * error / measured.peak_bytes:+.1f}", f"{measured.loaded_bytes / MIB:,.1f}",
        f"{measured.seconds:.0f}",
    ]  # fmt: skip


def _line(result: Result) -> str:
    return (
        f"{result.name}: predicted {result.predicted.needed_bytes / MIB:,.1f}, measured "
        f"{result.measured.peak_bytes / MIB:,.1f} MiB ({result.error_bytes / MIB:+.1f}), "
        f"{result.measured.seconds:.0f} s"
    )
