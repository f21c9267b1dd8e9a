"""`okno serve`: a model over HTTP."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Annotated

import typer

from okno.cli.model_settings import with_own_settings
from okno.cli.obtaining import about_bits, obtained_with, wants_of
from okno.cli.options import GivenFlags, with_settings
from okno.cli.reporters import HumanReporter, ProgramReporter, Reporter
from okno.config.load import Loaded, load
from okno.config.settings import ServeSettings
from okno.core.errors import OknoError
from okno.inspect.listing import LocalModel

EPILOG = (
    "Every option can be set as an environment variable (OKNO_BATCH_SIZE=4 is --batch-size 4) or "
    "in generation_config.yaml (`okno config init` writes a sample). The command line wins, then "
    "the environment, then the file. Underscores in option names count as dashes: --batch_size is "
    "--batch-size."
)
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@with_settings(*ServeSettings.model_fields, refuse_others=True)
def serve(
    given: GivenFlags,
    private: Annotated[
        bool, typer.Option(hidden=True, help="Report JSON; stop when stdin closes.")
    ] = False,
) -> int:
    """Serve a model over HTTP, OpenAI-compatible."""
    reporter: Reporter = ProgramReporter() if private else HumanReporter()
    if private:
        threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    try:
        with closing(reporter):
            loaded = load(given, os.environ)
            model = _model(loaded, reporter, private=private)
            loaded = with_own_settings(loaded, model)
            for note in [] if private else [*loaded.notes, *_notes(loaded)]:
                reporter.note(note)
            _serve(loaded, model, reporter)
    except OknoError as error:
        if not private:
            raise
        reporter.failed(error)
        return 1
    return 0


def _serve(loaded: Loaded, model: LocalModel | None, reporter: Reporter) -> None:
    """Heavy imports only now: everything cheap has been checked."""
    settings = loaded.settings
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT)

    from okno.advisor.beside import beside_of
    from okno.advisor.learnt import learnt, lesson_keeper
    from okno.cli.given_to_parts import server_settings, with_config, with_learnt, worker_options
    from okno.cli.serving import serving
    from okno.engines.trace_file import TraceFile
    from okno.inspect.hardware.machine import this_machine
    from okno.server.run import run

    server = with_config(server_settings(settings, model), loaded)
    machine = this_machine()
    known = learnt(machine, model.path if model else None)
    for note in known.notes:
        reporter.note(note)
    options = with_learnt(worker_options(settings, model), known)
    server = replace(server, beside=beside_of(options))
    reporter.loading(options.name, model.size_bytes if model else 0)
    # what steps with adapters take is no lesson about the model alone
    learns = model is not None and not options.adapters
    keep = lesson_keeper(machine, model.path, known) if model and learns else None
    trace = TraceFile(settings.trace) if settings.trace is not None else None
    with closing(trace) if trace else nullcontext():
        run(serving(options, server, settings.hang_timeout, reporter, keep, trace))


def _model(loaded: Loaded, reporter: Reporter, *, private: bool) -> LocalModel | None:
    """The model in a file to load: found here, or fetched and made ready first. None for the
    scripted engine, which has none. private: who started this has been told."""
    settings = loaded.settings
    if settings.engine == "scripted":
        return None
    wants = wants_of(settings)

    def say(text: str) -> None:
        if not private:
            reporter.note(text)

    with reporter.working() as progress:
        return obtained_with(
            settings.model, settings, wants, about_bits(loaded, wants, say), progress
        )


def _notes(loaded: Loaded) -> list[str]:
    """What the given settings mean."""
    if loaded.settings.engine != "scripted" and loaded.source("model") == "default":
        return ["No --model given: serving the demo model that ships with okno."]
    return []


def _stop_when_stdin_closes() -> None:
    """End this process like SIGTERM when the parent is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
