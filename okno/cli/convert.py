"""`okno convert`: a checkpoint as a GGUF file, by hand. Serving one does this by itself, once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from okno.cli.obtaining import BITS_SETTINGS, about_bits, remark, wants_of
from okno.cli.options import GivenFlags, with_settings
from okno.cli.progress import working
from okno.cli.text import size
from okno.config.load import load
from okno.core.commands import quoted
from okno.core.errors import BadSetting, ModelUnusable
from okno.core.paths import expanded
from okno.inspect.listing import Checkpoint
from okno.inspect.models import find_local, models_folder

EPILOG = (
    "Weights keep their type (F32, F16, BF16), GPTQ and AWQ layers their numbers, unless "
    "--load-in-8bit or --load-in-4bit asks for fewer bits. `okno serve --model FOLDER` converts by "
    "itself and keeps the result; this command is for a file to take elsewhere."
)


@with_settings("models_dir", *BITS_SETTINGS.values(), "config")
def convert(
    given: GivenFlags,
    model: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help="A folder with config.json and safetensors files."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write; else the one kept for serving."),
    ] = None,
) -> None:
    """Convert a checkpoint (safetensors, GPTQ, AWQ) to a GGUF file."""
    from okno.convert.obtain import wants_gained
    from okno.convert.ready import convert as written
    from okno.convert.ready import engine_ready

    loaded = load(given, os.environ)
    settings = loaded.settings
    found = find_local(model, models_folder(settings.models_dir))
    if not isinstance(found, Checkpoint):
        raise ModelUnusable(f"{found.path} is a GGUF file already; it can be served as it is.")
    wants = wants_of(settings)
    wants = wants_gained(found, wants, about_bits(loaded, wants, remark))
    with working() as progress:
        if out is None:
            made = engine_ready(found.path, wants, progress, remark)
            path, n_bytes = made.path, made.size_bytes
        else:
            result = written(found.path, _checked(out), wants, progress)
            path, n_bytes = result.path, result.size_bytes
            for note in result.notes:
                remark(note)
    typer.echo(path)
    remark(f"{size(n_bytes)}; `okno serve --model {quoted(path)}` serves it.")


def _checked(out: Path) -> Path:
    """Raises BadSetting for a name that is no file to be."""
    path = expanded(out, BadSetting)
    if path.is_dir():
        raise BadSetting(f"{path} is a folder. Give the name of the file to write, as model.gguf.")
    if path.suffix != ".gguf":
        raise BadSetting(f"{path} must end with .gguf, or no program knows what it is.")
    return path
