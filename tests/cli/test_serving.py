"""The order of starting and ending: HTTP listens, the model loads, a signal ends both."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import pytest

from okno.cli import serving as module
from okno.cli.reporters import HumanReporter, ProgramReporter, ready_lines
from okno.cli.serve import _notes
from okno.cli.serving import serving
from okno.config.load import load
from okno.core.errors import BadSetting, DoesNotFit, ModelNotFound
from okno.core.window import MemoryUse, Window
from okno.engines.client import EngineStatus
from okno.engines.protocol import WorkerOptions
from okno.server.settings import ServerSettings

STATUS = EngineStatus(
    state="ready", progress=1.0, stalled=False, facts=None, window=Window(2, 1024, 2048),
    memory=MemoryUse(300 << 20, 7 << 20, 12 << 20, 9000 << 20), notes=("ctx auto: 1,024",),
    heartbeat=None, in_flight=0, restarts=0, submitted=0, completed=0, cancelled=0, rejected=0,
    failed=0, prompt_tokens=0, cached_tokens=0, generated_tokens=0, last_death=None, error=None,
)  # fmt: skip


class Play:
    """A supervisor and an HTTP server on strings; `log` is what happened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.stop = asyncio.Event()
        self.load: Callable[[], Any] = lambda: asyncio.sleep(0)
        self.port_error: BadSetting | None = None
        self.in_flight = 0
        self.drain_timeout_s = 30.0
        monkeypatch.setattr(module, "Supervisor", self.supervisor)
        monkeypatch.setattr(module, "serve", self.serve)

    def supervisor(self, options: WorkerOptions, **settings: object) -> Play:
        assert settings["hang_timeout_s"] == 9
        return self

    async def start(self) -> None:
        self.log.append("load")
        await self.load()
        self.log.append("loaded")

    def status(self) -> EngineStatus:
        return dataclasses.replace(STATUS, in_flight=self.in_flight)

    async def close(self) -> None:
        self.log.append("closed")

    async def serve(
        self, engine: object, settings: object, *, on_ready: Any, on_stopping: Any
    ) -> None:
        if self.port_error:
            raise self.port_error
        self.log.append("listen")
        on_ready("http://here")
        try:
            await self.stop.wait()
            on_stopping()
            self.log.append("drained")
        except asyncio.CancelledError:
            self.log.append("http cancelled")
            raise

    async def run(self) -> None:
        settings = ServerSettings(model="x", drain_timeout_s=self.drain_timeout_s)
        await serving(WorkerOptions("", "x"), settings, 9, self)  # type: ignore[arg-type]

    def progress(self, fraction: float) -> None:
        """The reporter's part."""

    def ready(self, url: str, model: str, status: EngineStatus) -> None:
        self.log.append(f"ready {url} {model}")
        self.stop.set()

    def stopping(self, running: int, drain_s: float) -> None:
        self.log.append(f"stopping {running} {drain_s:g}")


@pytest.fixture
def play(monkeypatch) -> Play:
    return Play(monkeypatch)


async def test_http_listens_first_then_the_model_loads_then_it_is_ready(play):
    await play.run()
    assert play.log == ["listen", "load", "loaded", "ready http://here x", "drained", "closed"]


async def test_a_busy_port_ends_it_before_anything_loads(play):
    play.port_error = BadSetting("busy")
    with pytest.raises(BadSetting, match="busy"):
        await play.run()
    assert play.log == ["closed"]


async def test_a_model_that_does_not_fit_ends_the_server_too(play):
    async def fail() -> None:
        raise DoesNotFit("too big")

    play.load = fail
    with pytest.raises(DoesNotFit):
        await play.run()
    assert play.log == ["listen", "load", "http cancelled", "closed"]


async def test_a_signal_while_loading_ends_without_waiting_for_the_model(play):
    async def forever() -> None:
        play.stop.set()
        await asyncio.Event().wait()

    play.load = forever
    await play.run()
    assert play.log == ["listen", "load", "drained", "closed"]


async def test_a_signal_says_that_answers_are_still_running(play):
    play.in_flight = 2
    await play.run()
    assert play.log[-3:] == ["stopping 2 30", "drained", "closed"]


async def test_a_signal_says_nothing_when_there_is_nothing_to_wait_for(play):
    play.in_flight, play.drain_timeout_s = 2, 0
    await play.run()
    assert "drained" in play.log
    assert not [entry for entry in play.log if entry.startswith("stopping")]


def test_the_ready_lines_have_address_model_window_and_memory():
    assert ready_lines("http://here", "demo", STATUS) == [
        "okno is ready: http://here · demo",
        "batch 2 × ctx 1,024 (KV pool 2,048 tokens, f16)",
        "memory 300 MiB (weights 7.0 MiB, KV 12.0 MiB), 8.8 GiB free",
    ]


def test_the_largest_figures_still_fit_a_terminal():
    huge = dataclasses.replace(
        STATUS, window=Window(256, 16_777_216, 2_147_483_647), memory=MemoryUse(*[999 << 30] * 4)
    )
    assert max(map(len, ready_lines("http://127.0.0.1:65535", "demo", huge))) < 80


def test_a_person_is_told_what_a_stop_waits_for_and_how_to_cut_it_short(capsys):
    HumanReporter().stopping(1, 30.0)
    HumanReporter().stopping(2, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "Stopping: 1 answer still running, up to 30 s. Ctrl-C again stops at once.",
        "Stopping: 2 answers still running, up to 0.5 s. Ctrl-C again stops at once.",
    ]


def test_notes_are_broken_at_words_on_a_terminal_and_not_in_a_log(capsys, monkeypatch):
    note = "--load-in-8bit: a sentence that is longer than the terminal is wide"
    HumanReporter().note(note)
    assert capsys.readouterr().err == f"note: {note}\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    HumanReporter().note(note)
    assert capsys.readouterr().err.splitlines() == [
        "note: --load-in-8bit: a sentence that is", "longer than the terminal is wide",
    ]  # fmt: skip


def test_a_person_reads_notes_on_stderr_and_the_ready_line_on_stdout(capsys):
    reporter = HumanReporter()
    reporter.loading("demo", 7 << 20)
    reporter.progress(0.5)
    reporter.ready("http://here", "demo", STATUS)
    reporter.close()
    captured = capsys.readouterr()
    assert captured.out.startswith("okno is ready: http://here")
    assert captured.err == "Loading demo (7.0 MiB) …\nnote: ctx auto: 1,024\n"


def test_a_program_reads_json_lines(capfdbinary):
    reporter = ProgramReporter()
    reporter.loading("demo", 5)
    reporter.ready("http://here", "demo", STATUS)
    reporter.stopping(1, 30)
    reporter.failed(ModelNotFound("no"))
    lines = capfdbinary.readouterr().out.splitlines()
    assert lines[:3] == [
        b'{"progress":0.0}', b'{"note":"ctx auto: 1,024"}', b'{"url":"http://here"}',
    ]  # fmt: skip
    assert b'"model_not_found"' in lines[3]


def test_no_model_given_means_the_demo_and_is_said():
    assert _notes(load([], {})) == [
        "No --model given: serving the demo model that ships with okno."
    ]
