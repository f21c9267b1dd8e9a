"""`okno serve`: a model over HTTP."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from okno.cli.model_settings import model_of, with_own_settings
from okno.cli.options import GivenFlags, with_settings
from okno.cli.reporters import HumanReporter, ProgramReporter, Reporter
from okno.config.load import Loaded, load
from okno.config.settings import ServeSettings
from okno.core.errors import OknoError
from okno.inspect.gguf import stored_type
from okno.inspect.gguf_types import bits_of
from okno.inspect.listing import LocalModel

EPILOG = (
    "Every option can be set as an environment variable (OKNO_BATCH_SIZE=4 is --batch-size 4) or "
    "in generation_config.yaml (`okno config init` writes a sample). The command line wins, then "
    "the environment, then the file. Underscores in option names count as dashes: --batch_size is "
    "--batch-size."
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
            model = model_of(loaded.settings)
            loaded = with_own_settings(loaded, model)
            for note in [] if private else [*loaded.notes, *_notes(loaded, model)]:
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
    reporter.loading(options.name, model.size_bytes if model else 0)
    # what steps with adapters take is no lesson about the model alone
    learns = model is not None and not options.adapters
    keep = lesson_keeper(machine, model.path, known) if model and learns else None
    trace = TraceFile(settings.trace) if settings.trace is not None else None
    with closing(trace) if trace else nullcontext():
        run(serving(options, server, settings.hang_timeout, reporter, keep, trace))


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
    found = stored_type(path)
    bits = bits_of(found) if found else None
    if bits is not None and bits <= asked_bits:
        return (
            f"{flag}: the weights in {path.name} are already quantised ({found}). Nothing "
            "would be gained; they are kept as they are."
        )
    stored = f" ({found})" if found else ""
    return (
        f"{flag}: {path.name} is served as it is stored{stored}; okno does not quantise while "
        f"loading yet. A file with {asked_bits}-bit weights would need less memory."
    )


def _stop_when_stdin_closes() -> None:
    """End this process like SIGTERM when the parent is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
