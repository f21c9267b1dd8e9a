"""`okno config set` and `unset`: from words on the command line to the new text of the file."""

from __future__ import annotations

import difflib
from pathlib import Path

from okno.config.edit import with_value, without
from okno.config.fields import listed
from okno.config.file import SettingsFile, file_of, fits
from okno.config.given import short
from okno.config.tree import Entry, by_key, entries
from okno.config.where import FILE_NAME, NO_FILE
from okno.core.errors import BadSetting
from okno.core.paths import expanded

HEAD = "# Settings of okno. `okno config init` writes a file with every setting explained.\n"
NEAR = 0.6


def changed(file: SettingsFile, key: str, value: str | None) -> str:
    """The text of `file` with `key` set to the typed `value`; None takes it out.

    Raises BadSetting for an unknown key or a value of the wrong type.
    """
    entry = entry_named(key)
    text = without(file, entry) if value is None else with_value(file, entry, typed(entry, value))
    return f"\ufeff{text}" if file.bom else text


def created(path: Path, key: str, value: str) -> str:
    """The text of a new file that sets only `key`."""
    text = "{}\n" if path.name.endswith(".json") else HEAD
    return changed(file_of(path, text.encode()), key, value)


def target(named: str | None) -> Path:
    """Where a new file goes. Raises BadSetting when the user wants no file, or names none."""
    if named == NO_FILE:
        raise BadSetting(f"--config {NO_FILE} means no settings file; name the one to change.")
    return expanded(named, BadSetting) if named else Path(FILE_NAME)


def entry_named(key: str) -> Entry:
    """The setting `key`: `load.ctx`, or `ctx` alone; dashes count as underscores."""
    wanted = key.replace("-", "_").strip("_")
    names = {entry.name: entry for entry in entries()}
    found = by_key().get(wanted) or names.get(wanted)
    if found is not None:
        return found
    near = difflib.get_close_matches(wanted, [*by_key(), *names], n=1, cutoff=NEAR)
    hint = f" Did you mean {(by_key() | names)[near[0]].key}?" if near else ""  # type: ignore[operator]
    raise BadSetting(f"{short(key)} is not a setting of the file.{hint}", param=key[:80])


def typed(entry: Entry, text: str) -> object:
    """The value that `text` means for `entry`, as YAML has it. Raises BadSetting."""
    value = _value(entry, text)
    if not fits(entry, value):
        written = "(hidden)" if entry.flag.secret else short(text)
        raise BadSetting(f"{entry.key}: {written}: it must be {entry.allowed}.", param=entry.name)
    return value


def _value(entry: Entry, text: str) -> object:
    if text in entry.words or entry.choices or entry.kind == "text":
        return text
    if entry.kind == "texts":
        return listed(text)
    if entry.kind == "switch":
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in (int, float) if entry.kind == "number" else (int,):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
