"""`okno config`: the settings, where they come from, and the file that keeps them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from okno.cli.config_table import print_table
from okno.cli.model_settings import local_model, with_own_settings
from okno.cli.options import GivenFlags, with_settings
from okno.cli.text import for_stderr
from okno.config.changing import changed, created, target
from okno.config.explain import explain
from okno.config.file import file_of, layer_of, printable, read_file
from okno.config.load import Loaded, env_name, load, merge
from okno.config.sample import sample
from okno.config.schema import schema
from okno.config.settings import ServeSettings
from okno.config.show import as_yaml, effective
from okno.config.where import FILE_NAME, NO_FILE, default_files, find_file
from okno.config.write import write_file
from okno.core.errors import BadSetting, OknoError
from okno.core.paths import expanded

EPILOG = (
    "Values come from the request, then the command line, then OKNO_* variables, then the file, "
    "then what comes with the model, then the defaults. The file is --config FILE, else "
    "generation_config.yaml in this folder, else the one in okno's user config folder."
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        help="The settings file. Default: the one OKNO_CONFIG names, else the one in use.",
        metavar="FILE",
    ),
]
Key = Annotated[
    str, typer.Argument(help="Such as temperature, load.ctx, server.port.", show_default=False)
]


@with_settings(*ServeSettings.model_fields, refuse_others=True, hidden=True)
def explain_command(given: GivenFlags, as_json: AsJson = False) -> None:
    """Tell for each setting its value and where it comes from. Takes the options of okno serve."""
    loaded = _loaded(given)
    rows = explain(loaded)
    if as_json:
        file = str(loaded.file) if loaded.file else None
        _print_json({"file": file, "settings": [asdict(row) for row in rows]})
        return
    print_table(rows)
    if loaded.file is None:
        _remark("No settings file.")


@with_settings(*ServeSettings.model_fields, refuse_others=True, hidden=True)
def show_command(given: GivenFlags, as_json: AsJson = False) -> None:
    """Print the settings in effect as a settings file. Takes the options of okno serve."""
    loaded = _loaded(given)
    if as_json:
        _print_json(effective(loaded))
    else:
        typer.echo(as_yaml(loaded), nl=False)


def set_command(
    key: Key,
    value: Annotated[
        str, typer.Argument(help='The value; a list as ["a", "b"].', show_default=False)
    ],
    config: ConfigFile = None,
) -> None:
    """Set KEY to VALUE in the settings file; comments and order stay."""
    named = _named(config)
    is_new = named is not None and named != NO_FILE and not os.path.lexists(target(named))
    file = None if is_new else find_file(named)
    path = file.path if file else target(named)
    text = changed(file, key, value) if file else created(path, key, value)
    _write(path, text, found=named is None and path == default_files()[0])
    typer.echo(f"{printable(str(path))}: {key} is set.")


def unset_command(key: Key, config: ConfigFile = None) -> None:
    """Take KEY out of the settings file; comments and order stay."""
    file = find_file(_named(config))
    if file is None:
        raise BadSetting(f"There is no settings file, so nothing sets {key!r}.")
    text = changed(file, key, None)
    _write(file.path, text, found=file.found)
    typer.echo(f"{printable(str(file.path))}: {key} is not set any more.")


def init_command(
    path: Annotated[str, typer.Argument(help="Where to write it.", metavar="[FILE]")] = FILE_NAME,
) -> None:
    """Write a commented sample settings file; an existing file is left alone."""
    file = expanded(path, BadSetting)
    if os.path.lexists(file):
        raise BadSetting(
            f"{printable(str(file))} is there already and is left as it is. Give another name, or "
            "move it away first."
        )
    write_file(file, sample())
    typer.echo(f"{printable(str(file))} is written: every setting with its default, commented out.")


def check_command(
    path: Annotated[str, typer.Argument(help="The file.", metavar="FILE")],
) -> int:
    """Check a settings file; name every mistake with its line."""
    file = read_file(expanded(path, BadSetting))
    layer = layer_of(file)
    messages = [error.message for error in layer.errors] or _wrong_values(path)
    for message in messages:
        typer.echo(message, err=True)
    if messages:
        return 1
    for note in layer.notes:
        _remark(note)
    count = len(layer.given)
    typer.echo(f"{file.name} is good: {count} setting{'' if count == 1 else 's'}.")
    return 0


def _wrong_values(path: str) -> list[str]:
    try:
        merge([], {}, read_file(expanded(path, BadSetting)))
    except BadSetting as error:
        return [error.message]
    return []


def schema_command() -> None:
    """Print the JSON schema of the settings file."""
    _print_json(schema())


def path_command() -> int:
    """Print the path of the settings file in use. Exit code 1 if there is none."""
    file = find_file(_named(None))
    if file is not None:
        typer.echo(printable(str(file.path.absolute())))
        return 0
    places = " nor ".join(printable(str(path)) for path in default_files())
    _remark(f"No settings file: neither {places} is there. `okno config init` writes one.")
    return 1


SUBCOMMANDS = {
    "explain": explain_command,
    "show": show_command,
    "set": set_command,
    "unset": unset_command,
    "init": init_command,
    "check": check_command,
    "schema": schema_command,
    "path": path_command,
}
CONTEXTS = {"set": {"ignore_unknown_options": True}}  # VALUE may be negative


def _loaded(given: GivenFlags) -> Loaded:
    """The settings `okno serve` would have. A model that is not there is said: what comes with it
    is then missing."""
    loaded = load(given, os.environ)
    try:
        loaded = with_own_settings(loaded, local_model(loaded.settings))
    except OknoError as error:
        _remark(f"note: without what comes with the model: {error.message}")
    for note in loaded.notes:
        _remark(f"note: {note}")
    return loaded


def _named(config: str | None) -> str | None:
    return config or os.environ.get(env_name("config")) or None


def _write(path: Path, text: str, *, found: bool) -> None:
    """Write a settings file that can be read back without an error, or none."""
    merge([], {}, file_of(path, text.encode(), found=found))
    write_file(path, text)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _remark(text: str) -> None:
    typer.echo(for_stderr(text), err=True)
