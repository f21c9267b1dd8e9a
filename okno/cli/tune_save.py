"""`okno tune --save`: what was measured, into the settings file; comments and order stay."""

from __future__ import annotations

from pathlib import Path

import typer

from okno.cli.text import for_stderr
from okno.config.changing import changed, created, target
from okno.config.file import file_of, printable
from okno.config.given import spelt
from okno.config.load import Loaded, merge
from okno.config.where import find_file
from okno.config.write import write_file
from okno.core.plan import PlannedLoad

LOAD_FLAGS = ("step_tokens", "gpu_layers", "mmap", "flash_attention")


def check_saving(loaded: Loaded, planned: PlannedLoad) -> None:
    """Raise BadSetting now, before minutes of measuring, if `planned` could not be saved."""
    _edited(loaded.settings.config, _values(loaded, planned))


def save_load(loaded: Loaded, best: PlannedLoad) -> None:
    """Write `best` into the settings file in use, or a new one. Raises BadSetting when it cannot be
    written, or `okno serve` would refuse what it then says."""
    values = _values(loaded, best)
    path, text = _edited(loaded.settings.config, values)
    write_file(path, text)
    told = ", ".join(f"{name} {value}" for name, value in values.items())
    typer.echo(for_stderr(f"{printable(str(path))}: {told}."), err=True)


def _values(loaded: Loaded, planned: PlannedLoad) -> dict[str, str]:
    """What makes `okno serve` load as was measured: the window, and what of the load was given for
    this run; what the file already says of it stays."""
    window = planned.load.window
    given = {
        name: spelt(getattr(loaded.settings, name))
        for name in LOAD_FLAGS
        if loaded.source(name) in ("command line", "environment")
    }
    sizes = {"batch_size": str(window.batch_size), "ctx": str(window.ctx)}
    return {**sizes, "kv_type": window.kv_type, **given}


def _edited(named: str | None, values: dict[str, str]) -> tuple[Path, str]:
    """The path and the new text of the file. Raises BadSetting as save_load."""
    file = find_file(named)
    path, found = (file.path, file.found) if file else (target(named), False)
    text = ""
    for name, value in values.items():
        key = f"load.{name}"
        text = changed(file, key, value) if file else created(path, key, value)
        file = file_of(path, text.encode(), found=found)
    merge([], {}, file)
    return path, text
