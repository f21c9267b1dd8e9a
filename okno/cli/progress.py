"""Loading, shown: a bar on a terminal, one plain line elsewhere. Writes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def loading(title: str) -> Iterator[Callable[[float], None]]:
    """Show `title` while the block runs; the given function moves the bar (0..1)."""
    if not sys.stderr.isatty():
        typer.echo(f"{title} …", err=True)
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)


def _nothing(fraction: float) -> None:
    """A log file needs no moving bar."""
