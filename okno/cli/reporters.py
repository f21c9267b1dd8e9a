"""What `okno serve` says while it starts: to a person, or to the program that started it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

import typer

from okno.cli.private_server import Report, encode
from okno.cli.progress import ending_cleanly, loading, working
from okno.cli.text import for_stderr, size
from okno.convert.progress import Progress
from okno.core.errors import OknoError
from okno.core.window import MemoryUse, Window
from okno.engines.client import EngineStatus


class Reporter(Protocol):
    """Told in order: notes, working (fetching, converting), loading, progress, then ready or
    failed, and stopping when a signal finds answers still running, which get up to `drain_s`.
    Closed at the end."""

    def note(self, text: str) -> None: ...
    def working(self) -> AbstractContextManager[Progress]: ...
    def loading(self, name: str, size_bytes: int) -> None: ...
    def progress(self, fraction: float) -> None: ...
    def ready(self, url: str, model: str, status: EngineStatus) -> None: ...
    def stopping(self, running: int, drain_s: float) -> None: ...
    def failed(self, error: OknoError) -> None: ...
    def close(self) -> None: ...


class HumanReporter:
    """Notes, the loading bar and the end to stderr, the ready lines to stdout."""

    def __init__(self) -> None:
        self._bar = ExitStack()

    def note(self, text: str) -> None:
        typer.echo(for_stderr(f"note: {text}"), err=True)

    def working(self) -> AbstractContextManager[Progress]:
        return working()

    def loading(self, name: str, size_bytes: int) -> None:
        much = f" ({size(size_bytes)})" if size_bytes else ""
        self._move = self._bar.enter_context(loading(f"Loading {name}{much}"))

    def progress(self, fraction: float) -> None:
        self._move(fraction)

    def ready(self, url: str, model: str, status: EngineStatus) -> None:
        self.close()
        for note in status.notes:
            self.note(note)
        typer.echo("\n".join(ready_lines(url, model, status)))
        sys.stdout.flush()

    def stopping(self, running: int, drain_s: float) -> None:
        answers = "1 answer" if running == 1 else f"{running:,} answers"
        text = (
            f"Stopping: {answers} still running, up to {drain_s:g} s. Ctrl-C again stops at once."
        )
        typer.echo(for_stderr(text), err=True)

    def failed(self, error: OknoError) -> None:
        """The error is printed where every command's errors are."""

    def close(self) -> None:
        self._bar.close()


class ProgramReporter:
    """One JSON object a line to stdout (`private_server.Report`)."""

    def note(self, text: str) -> None:
        self._send(Report(note=text))

    @contextmanager
    def working(self) -> Iterator[Progress]:
        with ending_cleanly():
            yield self._work

    def _work(self, stage: str, done_bytes: int, total_bytes: int, left_s: float | None) -> None:
        self._send(Report(progress=done_bytes / total_bytes if total_bytes else 0.0))

    def loading(self, name: str, size_bytes: int) -> None:
        self._send(Report(progress=0.0))

    def progress(self, fraction: float) -> None:
        self._send(Report(progress=fraction))

    def ready(self, url: str, model: str, status: EngineStatus) -> None:
        for note in status.notes:
            self.note(note)
        self._send(Report(url=url))

    def stopping(self, running: int, drain_s: float) -> None:
        """The program asked for it."""

    def failed(self, error: OknoError) -> None:
        self._send(Report(error=error.info))

    def close(self) -> None:
        """Nothing is open."""

    def _send(self, report: Report) -> None:
        sys.stdout.buffer.write(encode(report) + b"\n")
        sys.stdout.flush()


def ready_lines(url: str, model: str, status: EngineStatus) -> list[str]:
    """Address and model, window, memory: lines that fit a terminal of 80 columns."""
    lines = [f"okno is ready: {url} · {model}"]
    lines += [_window(status.window)] if status.window else []
    lines += [_memory(status.memory)] if status.memory else []
    return lines


def _window(window: Window) -> str:
    return (
        f"batch {window.batch_size} × ctx {window.ctx:,} "
        f"(KV pool {window.kv_pool_tokens:,} tokens, {window.kv_type})"
    )


def _memory(memory: MemoryUse) -> str:
    return (
        f"memory {size(memory.process_bytes)} (weights {size(memory.weights_bytes)}, "
        f"KV {size(memory.kv_bytes)}), {size(memory.free_bytes)} free"
    )
