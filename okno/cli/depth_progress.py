"""The stages of a measurement, shown: a bar each on a terminal, one plain line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from okno.bench.depth_job import Stage

SHOWN: dict[Stage, str] = {
    "load": "loading the model",
    "reference": "loading the reference",
    "pass": "reading the text once",
    "windows": "reading it under narrower windows",
}


@contextmanager
def progress(model: str) -> Iterator[Callable[[Stage, float], None]]:
    """While the block runs, the given function moves the bar of a stage (0..1)."""
    if not sys.stderr.isatty():
        typer.echo(f"Measuring {model} …", err=True)
        yield lambda stage, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[Stage, TaskID] = {}

        def move(stage: Stage, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(SHOWN[stage], total=1.0)
            bars.update(tasks[stage], completed=fraction)

        yield move
