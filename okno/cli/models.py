"""`okno models`: what is here to be served."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from okno.cli.options import GivenFlags, with_settings
from okno.cli.text import size
from okno.config.load import load
from okno.core.errors import OknoError
from okno.core.header import ModelHeader
from okno.inspect.adapter_kind import is_adapter
from okno.inspect.header import read_header
from okno.inspect.hub_cache import interrupted, list_hub
from okno.inspect.hub_home import hub_cache
from okno.inspect.listing import Checkpoint, LocalModel, list_folder
from okno.inspect.models import demo_model, models_folder


@dataclass(frozen=True, slots=True)
class Row:
    """A model, or an adapter, and where it is: `okno` (it ships), `folder`, `hub`, `converted`
    (okno made it)."""

    model: LocalModel | Checkpoint
    place: str
    header: ModelHeader | None
    problem: str | None
    is_adapter: bool = False

    @property
    def format(self) -> str:
        if self.is_adapter:
            return "LoRA"
        return self.model.format if isinstance(self.model, Checkpoint) else "GGUF"

    @property
    def kind(self) -> str:
        """`llama 8.0 B Q4_K_M, ctx 8,192`"""
        if self.is_adapter:
            return "LoRA adapter, for --lora"
        if self.header is None:
            return "cannot be read"
        sizes = f"{parameters(self.header.n_params)} {self.header.file_type}"
        kind = f"{self.header.architecture} {sizes}, ctx {self.header.ctx_train:,}"
        return f"{kind}, checkpoint" if isinstance(self.model, Checkpoint) else kind


@with_settings("models_dir", "config")
def models(
    given: GivenFlags,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the models on this machine: the demo that ships, those in the models folder and in the
    cache of huggingface_hub, and those that okno made of others."""
    folder = models_folder(load(given, os.environ).settings.models_dir)
    rows = list(_rows(folder))
    if as_json:
        typer.echo(json.dumps([_as_json(row) for row in rows], ensure_ascii=False, indent=2))
        return
    _print_table(rows)
    for begun in interrupted(hub_cache()):
        typer.echo(
            f"{begun.repository}: {size(begun.size_bytes)} of an interrupted download; `okno pull` "
            "goes on, `okno rm` removes it",
            err=True,
        )
    typer.echo(f"Models folder: {folder}{'' if folder.is_dir() else ' (not there yet)'}", err=True)
    typer.echo(f"Hub cache: {hub_cache()}", err=True)


def _rows(folder: Path) -> Iterator[Row]:
    from okno.convert.ready import converted_folder

    yield _row(demo_model(), "okno")
    for place, listing in (
        ("folder", list_folder(folder)),
        ("hub", list_hub(hub_cache())),
        ("converted", list_folder(converted_folder())),
    ):
        for entry in listing.entries:
            yield _row(entry, place)


def _row(model: LocalModel | Checkpoint, place: str) -> Row:
    """What its header says, or what is wrong with it."""
    if is_adapter(model):
        return Row(model, place, None, None, is_adapter=True)
    try:
        return Row(model, place, read_header(model.path), None)
    except OknoError as error:
        return Row(model, place, None, error.message)


def _print_table(rows: list[Row]) -> None:
    names = max(len(row.model.name) for row in rows)
    kinds = max(len(row.kind) for row in rows)
    for row in rows:
        sizes = f"{size(row.model.size_bytes):>10}  {row.kind:<{kinds}}"
        typer.echo(f"{row.model.name:<{names}}  {sizes}  {row.model.path}")
        if row.problem:
            typer.echo(f"{row.model.name}: {row.problem}", err=True)


def parameters(count: int) -> str:
    """`135 M`, `8.0 B`."""
    if count < 1e9:
        return f"{count / 1e6:.1f} M" if count < 1e8 else f"{count / 1e6:.0f} M"
    return f"{count / 1e9:.1f} B" if count < 1e11 else f"{count / 1e9:.0f} B"


def _as_json(row: Row) -> dict[str, str | int | None]:
    known: dict[str, str | int | None] = {
        "name": row.model.name,
        "size_bytes": row.model.size_bytes,
        "path": str(row.model.path),
        "place": row.place,
        "format": row.format,
    }
    if row.is_adapter:
        return known
    if row.header is None:
        return known | {"problem": row.problem}
    return known | {
        "architecture": row.header.architecture,
        "n_params": row.header.n_params,
        "file_type": row.header.file_type,
        "ctx_train": row.header.ctx_train,
        "n_layer": row.header.n_layer,
    }
