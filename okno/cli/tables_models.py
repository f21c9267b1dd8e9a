"""Recommended models and tuned windows as tables, readable in 80 columns."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from okno.advisor.recommending import Recommendation, Recommended
from okno.advisor.report import PlanReport
from okno.bench.tune import Run, Tuned
from okno.cli.tables import machine_line
from okno.plan.goals import miss
from okno.plan.words import interval, named, rate, seconds, size

UNKNOWN = "unknown"


def print_recommendation(found: Recommendation, out: Console) -> None:
    """The whole answer to `okno recommend`."""
    out.print(Text.assemble(("Machine", "bold"), "  ", machine_line(found.machine)))
    asked = found.request
    wanted = [asked.task, asked.language and f"language {asked.language}", asked.licence]
    out.print(
        f"{', '.join(word for word in wanted if word)}: {found.n_fitting} of "
        f"{found.n_considered} models of the catalog fit."
    )
    out.print()
    for place, one in enumerate(found.models, 1):
        _print_model(place, one, found, out)
    out.print()
    for line in (found.rule, _metric_line(found), *found.notes):
        out.print(Padding(Text(line), (0, 0, 0, 2)))


def _print_model(place: int, one: Recommended, found: Recommendation, out: Console) -> None:
    """Two lines: what it is, and what it gives here."""
    candidate, variant = one.offer.candidate, one.offer.variant
    params = "" if candidate.n_params is None else f" · {candidate.n_params / 1e9:.3g} B"
    about = "" if variant.is_published else "about "
    head = Text.assemble(
        (f"{place:>3}. ", "dim"), (candidate.name, "bold"), params,
        f" · {variant.quant}, {about}{size(variant.file_bytes)}",
        "" if one.offer.meets_limits else " · too slow for the limits",
    )  # fmt: skip
    out.print(head)
    for line in (_gives(one), _known(one, found)):
        out.print(Padding(Text(line), (0, 0, 0, 5)))


def _gives(one: Recommended) -> str:
    """Alone, and in the best window."""
    parts = []
    if one.offer.planned.speed:
        speed = one.offer.planned.speed
        parts.append(
            f"{rate(speed.alone_tok_s.value)} tokens/s alone, first token "
            f"{seconds(speed.ttft_s.value)} ({speed.total_tok_s.kind})"
        )
    if one.window and one.window.speed:
        window = one.window.load.window
        parts.append(
            f"batch {window.batch_size} x ctx {window.ctx:,}: "
            f"{rate(one.window.speed.total_tok_s.value)} in all, "
            f"{size(one.window.memory.needed_bytes)}"
        )
    return "; ".join(parts)


def _known(one: Recommended, found: Recommendation) -> str:
    candidate = one.offer.candidate
    quality = (
        f"{candidate.quality.value:g} ({candidate.quality.source})"
        if candidate.quality
        else UNKNOWN
    )
    language = found.request.language
    speaks = f"{language}: {candidate.speaks}" if language else _languages(candidate.languages)
    return f"quality {quality} · licence {candidate.licence or UNKNOWN} · {speaks}"


def _languages(languages: tuple[str, ...]) -> str:
    shown = ", ".join(languages[:6]) + (", ..." if len(languages) > 6 else "")
    return f"languages {shown or UNKNOWN}"


def _metric_line(found: Recommendation) -> str:
    if found.metric is None:
        return "No published measure of quality is known of enough of these models."
    return f"Quality is {found.metric}, as published; values of other metrics do not compare."


def print_tuned(report: PlanReport, tuned: Tuned, out: Console) -> None:
    """The whole answer to `okno tune`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("window", "predicted tokens/s", "measured", "last first token", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for run in tuned.runs:
        style = "bold" if run.measured is tuned.best else ""
        table.add_row(*(Text(cell, style=style) for cell in _run_cells(run, tuned)))
    out.print(f"{report.subject.name}: {len(tuned.runs)} runs in {seconds(tuned.seconds)}")
    out.print(table)
    if tuned.best is None:
        out.print("No window gave first tokens in time. Shorter prompts or a smaller model help.")
        return
    out.print(f"Best measured: {named(tuned.best)}.")
    if tuned.left_out:
        out.print(f"No time was left for {tuned.left_out} more.")


def _run_cells(run: Run, tuned: Tuned) -> tuple[str, ...]:
    predicted = run.predicted.speed
    cells = [named(run.predicted), interval(predicted.total_tok_s) if predicted else UNKNOWN]
    speed = run.measured.speed if run.measured else None
    if speed is None:
        return (*cells, "-", "too late", "")
    limits = "" if miss(speed, tuned.goal).none else "misses a limit"
    mark = "best" if run.measured is tuned.best else limits
    return (*cells, rate(speed.total_tok_s.value), seconds(speed.ttft_loaded_s.value), mark)
