"""The order of starting and ending: HTTP listens, the model loads, a signal ends both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from okno.cli import serving as module
from okno.cli.reporters import HumanReporter, ProgramReporter, ready_line
from okno.cli.serve import _notes
from okno.cli.serving import serving
from okno.config.load import Given, load
from okno.core.errors import BadSetting, DoesNotFit, ModelNotFound
from okno.core.window import MemoryUse, Window
from okno.engines.client import EngineStatus
from okno.engines.protocol import WorkerOptions
from okno.inspect.models import demo_model
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
        return STATUS

    async def close(self) -> None:
        self.log.append("closed")

    async def serve(self, engine: object, settings: object, *, on_ready: Any) -> None:
        if self.port_error:
            raise self.port_error
        self.log.append("listen")
        on_ready("http://here")
        try:
            await self.stop.wait()
            self.log.append("drained")
        except asyncio.CancelledError:
            self.log.append("http cancelled")
            raise

    async def run(self) -> None:
        await serving(WorkerOptions("", "x"), ServerSettings(model="x"), 9, self)  # type: ignore[arg-type]

    def progress(self, fraction: float) -> None:
        """The reporter's part."""

    def ready(self, url: str, model: str, status: EngineStatus) -> None:
        self.log.append(f"ready {url} {model}")
        self.stop.set()


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


def test_the_ready_line_has_address_model_window_and_memory():
    assert ready_line("http://here", "demo", STATUS) == (
        "okno is ready: http://here · demo · batch 2 × ctx 1,024 (KV pool 2,048 tokens, f16) · "
        "memory 300 MiB (weights 7.0 MiB, KV 12.0 MiB), 9,000 MiB free"
    )


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
    reporter.failed(ModelNotFound("no"))
    lines = capfdbinary.readouterr().out.splitlines()
    assert lines[:3] == [
        b'{"progress":0.0}', b'{"note":"ctx auto: 1,024"}', b'{"url":"http://here"}',
    ]  # fmt: skip
    assert b'"model_not_found"' in lines[3]


@pytest.mark.parametrize("name", ["load_in_8bit", "load_in_4bit"])
def test_a_quantised_file_says_what_8_and_4_bit_mean(name):
    flag = f"--{name.replace('_', '-')}"
    command_line = [
        (name, Given(True, "command line", flag)),
        ("model", Given("demo", "command line", "--model")),
    ]
    (note,) = _notes(load(command_line, {}), demo_model())
    assert note.startswith(f"{flag}: demo.gguf is a GGUF file, whose weights are already quantised")


def test_no_model_given_means_the_demo_and_is_said():
    assert _notes(load([], {}), demo_model()) == [
        "No --model given: serving the demo model that ships with okno."
    ]
