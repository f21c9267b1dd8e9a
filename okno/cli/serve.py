"""`okno serve`: a model over HTTP."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from okno.cli.options import GivenFlags, with_settings
from okno.cli.reporters import HumanReporter, ProgramReporter, Reporter
from okno.config.load import Loaded, load
from okno.config.settings import ServeSettings
from okno.core.errors import OknoError
from okno.inspect.file_type import file_type
from okno.inspect.listing import LocalModel
from okno.inspect.models import find_model, models_folder

EPILOG = (
    "Every option can be set as an environment variable: OKNO_BATCH_SIZE=4 is --batch-size 4. The "
    "command line wins. Underscores in option names count as dashes: --batch_size is --batch-size."
)
ASKED_BITS = {"load_in_8bit": 8, "load_in_4bit": 4}
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
    for name in ASKED_BITS:
        if model and getattr(loaded.settings, name):
            notes.append(_stored_as(loaded.given[name].spelled, ASKED_BITS[name], model.path))
    return notes


def _stored_as(flag: str, asked_bits: int, path: Path) -> str:
    """What asking for fewer bits means for a GGUF file: it depends on what is in it."""
    found = file_type(path)
    if found is not None and found.bits <= asked_bits:
        return (
            f"{flag}: the weights in {path.name} are already quantised ({found.name}). Nothing "
            "would be gained; they are kept as they are."
        )
    stored = f" ({found.name})" if found else ""
    return (
        f"{flag}: {path.name} is served as it is stored{stored}; okno does not quantise while "
        f"loading yet. A file with {asked_bits}-bit weights would need less memory."
    )


def _stop_when_stdin_closes() -> None:
    """End this process like SIGTERM when the parent is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
