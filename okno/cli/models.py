"""`okno models`: what is here to be served."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from okno.cli.options import GivenFlags, with_settings
from okno.cli.text import size
from okno.config.load import load
from okno.core.errors import OknoError
from okno.core.header import ModelHeader
from okno.inspect.header import read_header
from okno.inspect.listing import Checkpoint, LocalModel, list_folder
from okno.inspect.models import demo_model, models_folder


@with_settings("models_dir", "config")
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
    for checkpoint in listing.checkpoints:
        typer.echo(_checkpoint_line(checkpoint), err=True)
    typer.echo(f"Models folder: {folder}{'' if folder.is_dir() else ' (not there yet)'}", err=True)


def _print_table(found: list[LocalModel]) -> None:
    rows = [(model, *_facts(model)) for model in found]
    names = max(len(model.name) for model in found)
    kinds = max(len(_kind(header)) for _, header, _ in rows)
    for model, header, problem in rows:
        sizes = f"{size(model.size_bytes):>10}  {_kind(header):<{kinds}}"
        typer.echo(f"{model.name:<{names}}  {sizes}  {model.path}")
        if problem:
            typer.echo(f"{model.name}: {problem}", err=True)


def _facts(model: LocalModel) -> tuple[ModelHeader | None, str | None]:
    """What its header says, or what is wrong with it."""
    try:
        return read_header(model.path), None
    except OknoError as error:
        return None, error.message


def _kind(header: ModelHeader | None) -> str:
    """`llama 8.0 B Q4_K_M, ctx 8,192`"""
    if header is None:
        return "cannot be read"
    sizes = f"{parameters(header.n_params)} {header.file_type}"
    return f"{header.architecture} {sizes}, ctx {header.ctx_train:,}"


def parameters(count: int) -> str:
    """`135 M`, `8.0 B`."""
    if count < 1e9:
        return f"{count / 1e6:.1f} M" if count < 1e8 else f"{count / 1e6:.0f} M"
    return f"{count / 1e9:.1f} B" if count < 1e11 else f"{count / 1e9:.0f} B"


def _checkpoint_line(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.name}: {checkpoint.format} weights, made engine-ready when first served"


def _as_json(model: LocalModel) -> dict[str, str | int | None]:
    header, problem = _facts(model)
    known: dict[str, str | int | None] = {
        "name": model.name,
        "size_bytes": model.size_bytes,
        "path": str(model.path),
    }
    if header is None:
        return known | {"problem": problem}
    return known | {
        "architecture": header.architecture,
        "n_params": header.n_params,
        "file_type": header.file_type,
        "ctx_train": header.ctx_train,
        "n_layer": header.n_layer,
    }
