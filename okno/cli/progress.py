"""Loading, downloading, converting, shown on stderr: a bar on a terminal, else plain lines."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

from okno.cli.text import size
from okno.convert.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
QUARTERS = 4  # lines that a log gets of a long stage


@contextmanager
def loading(title: str) -> Iterator[Callable[[float], None]]:
    """Show `title` while the block runs; the given function moves the bar (0..1)."""
    if not sys.stderr.isatty():
        typer.echo(f"{title} …", err=True)
        yield _nothing
        return
    from rich.progress import BarColumn, TaskProgressColumn

    with _bars(BarColumn(), TaskProgressColumn()) as bars:
        task = bars.add_task(title, total=1.0)
        yield lambda fraction: bars.update(task, completed=fraction)


@contextmanager
def working() -> Iterator[Progress]:
    """A Progress for the block: each stage a bar with its bytes, rate and time left; a log gets a
    line at each quarter of a stage. Termination ends the block cleanly, as Ctrl-C does."""
    with ending_cleanly():
        yield from _working()


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """SIGTERM (of `docker stop`, of systemd) and SIGHUP (of a terminal that is closed) unwind the
    block, so that nothing half done stays. One that is ignored stays so: `nohup` wants that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = {number: signal.getsignal(number) for number in ENDING}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def end(number: int, _: FrameType | None) -> None:
        for other in heeded:  # what is unwinding is not to be stopped by the next one
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def _working() -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

    columns = (
        BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )  # fmt: skip
    with _bars(*columns) as bars:
        yield _Stages(bars)


class _Stages:
    """One bar, for the stage of the moment."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._stage = ""

    def __call__(self, stage: str, done_bytes: int, total_bytes: int, left_s: float | None) -> None:
        if stage != self._stage:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._task = self._bars.add_task(stage, total=None, left="")
            self._stage = stage
        left = "" if left_s is None else f"{duration(left_s)} left"
        self._bars.update(self._task, completed=done_bytes, total=total_bytes or None, left=left)


class _Lines:
    """A line when a stage begins, and at each quarter of it."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def __call__(self, stage: str, done_bytes: int, total_bytes: int, left_s: float | None) -> None:
        quarter = QUARTERS * done_bytes // total_bytes if total_bytes else 0
        if quarter <= self._told.get(stage, -1):
            return
        self._told[stage] = quarter
        much = f" {size(done_bytes)} of {size(total_bytes)}" if total_bytes else ""
        left = "" if left_s is None or done_bytes >= total_bytes else f", {duration(left_s)} left"
        typer.echo(f"{stage}:{much}{left}" if much else f"{stage} …", err=True)


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _bars(*columns: ProgressColumn) -> Bars:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TextColumn

    title = TextColumn("{task.description}", markup=False)
    return Bars(title, *columns, console=Console(stderr=True), transient=True)


def _nothing(fraction: float) -> None:
    """A log file needs no moving bar."""
