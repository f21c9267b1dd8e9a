"""`okno models`: what is here to be served."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from okno.cli.options import GivenFlags, with_settings
from okno.cli.text import size
from okno.config.load import load
from okno.inspect.listing import Foreign, LocalModel, list_folder
from okno.inspect.models import demo_model, models_folder


@with_settings("models_dir")
def models(
    given: GivenFlags,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the models on this machine: the demo that ships, and those in the models folder."""
    folder = models_folder(load(given, os.environ).settings.models_dir)
    listing = list_folder(folder)
    found = [demo_model(), *listing.models]
    if as_json:
        typer.echo(json.dumps([_as_json(model) for model in found], ensure_ascii=False, indent=2))
        return
    _print_table(found)
    for foreign in listing.foreign:
        typer.echo(_foreign_line(foreign), err=True)
    typer.echo(f"Models folder: {folder}{'' if folder.is_dir() else ' (not there yet)'}", err=True)


def _print_table(found: list[LocalModel]) -> None:
    width = max(len(model.name) for model in found)
    for model in found:
        typer.echo(f"{model.name:<{width}}  {size(model.size_bytes):>12}  {model.path}")


def _foreign_line(foreign: Foreign) -> str:
    return f"{foreign.name}: {foreign.format} weights, which land with a later version"


def _as_json(model: LocalModel) -> dict[str, str | int]:
    return {"name": model.name, "size_bytes": model.size_bytes, "path": str(model.path)}
