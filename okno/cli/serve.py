"""`okno serve`: a model over HTTP."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import closing
from typing import Annotated

import typer

from okno.cli.options import GivenFlags, with_settings
from okno.cli.reporters import HumanReporter, ProgramReporter, Reporter
from okno.config.load import Loaded, load
from okno.config.settings import ServeSettings
from okno.core.errors import OknoError
from okno.inspect.listing import LocalModel
from okno.inspect.models import find_model, models_folder

EPILOG = (
    "Every option can be set as an environment variable: OKNO_BATCH_SIZE=4 is --batch-size 4. The "
    "command line wins. Underscores in option names count as dashes: --batch_size is --batch-size."
)
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@with_settings(*ServeSettings.model_fields, also_refuse_later=True)
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
            model = _model(loaded.settings)
            for note in [] if private else [*loaded.notes, *_notes(loaded, model)]:
                reporter.note(note)
            _serve(loaded.settings, model, reporter)
    except OknoError as error:
        if not private:
            raise
        reporter.failed(error)
        return 1
    return 0


def _serve(settings: ServeSettings, model: LocalModel | None, reporter: Reporter) -> None:
    """Heavy imports only now: everything cheap has been checked."""
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT)

    from okno.cli.convert import server_settings, worker_options
    from okno.cli.serving import serving
    from okno.server.run import run

    server = server_settings(settings, model)
    options = worker_options(settings, model)
    reporter.loading(options.name, model.size_bytes if model else 0)
    run(serving(options, server, settings.hang_timeout, reporter))


def _model(settings: ServeSettings) -> LocalModel | None:
    """The model file; None for the scripted engine, which has none."""
    if settings.engine == "scripted":
        return None
    return find_model(settings.model, models_folder(settings.models_dir))


def _notes(loaded: Loaded, model: LocalModel | None) -> list[str]:
    """What the given settings mean for this model."""
    notes = []
    if model and loaded.source("model") == "default":
        notes.append("No --model given: serving the demo model that ships with okno.")
    for name in ("load_in_8bit", "load_in_4bit"):
        if model and getattr(loaded.settings, name):
            notes.append(
                f"{loaded.given[name].spelled}: {model.path.name} is a GGUF file, whose weights "
                "are already quantised. Nothing would be gained; they are kept as they are."
            )
    return notes


def _stop_when_stdin_closes() -> None:
    """End this process like SIGTERM when the parent is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
