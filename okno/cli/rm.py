"""`okno rm`: remove a model from this machine."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from okno.cli.options import GivenFlags, with_settings
from okno.cli.text import for_stderr, size
from okno.config.load import load
from okno.config.settings import ServeSettings
from okno.core.errors import BadSetting
from okno.inspect.hub_home import hub_cache
from okno.inspect.listing import list_folder
from okno.inspect.models import models_folder

EPILOG = (
    "Removes only what is in the models folder, in the cache of huggingface_hub (shared with other "
    "programs), or made by okno. In the folder of a checkpoint, other files and folders stay. "
    "Names count in full."
)


@with_settings("models_dir", "config")
def rm(
    given: GivenFlags,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name or a path as `okno models` lists it; OWNER/REPO for all of a repository, "
            "@REVISION for one revision of it, :QUANT for one file; hf: before it means the hub's "
            "cache only.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove a model from this machine."""
    from okno.convert.ready import converted_folder
    from okno.convert.removal import find_removal, remove

    settings = load(given, os.environ).settings
    cache = hub_cache()
    found = find_removal(name, models_folder(settings.models_dir), cache, converted_folder())
    _refuse_served(settings, found.models)
    told = f"{found.name}: {found.what}, {size(found.size_bytes)}"
    for path in found.files:
        _remark(str(path))
    if found.repository is not None and found.commit is None:
        _remark("All revisions of the repository go, and what of it is only begun.")
    if found.others:
        _remark(f"{found.others} other files in {found.files[0].parent} stay.")
    if not yes and not sys.stdin.isatty():
        raise BadSetting(f"{told}. Without a terminal nothing is removed unless --yes is given.")
    if not yes and not typer.confirm(f"{told}. Remove it?", default=False, err=True):
        _remark("Nothing was removed.")
        return 1
    remove(found, cache)
    _remark(f"Removed {told}.")
    for made in list_folder(converted_folder()).models:
        if any(made.name.startswith(last_of(name)) for name in found.models):
            _remark(f"{made.name}, made of it, stays: {size(made.size_bytes)}.")
    return 0


def last_of(name: str) -> str:
    """A model's name without its owner: what files made of it begin with."""
    return name.rsplit("/", 1)[-1]


def _refuse_served(settings: ServeSettings, names: tuple[str, ...]) -> None:
    """A running server would not find its model again after a crash."""
    from okno.cli.chat_client import ChatClient
    from okno.cli.partner import local_url

    client = ChatClient(local_url(settings), settings.api_key, if_gone="")
    try:
        info = client.probe()
    finally:
        client.close()
    if info is not None and info.model in names:
        raise BadSetting(f"{info.model} is being served at {info.url}. Stop that server first.")


def _remark(text: str) -> None:
    typer.echo(for_stderr(text), err=True)
