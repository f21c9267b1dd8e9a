"""generation_config.yaml: read, bounded, and turned into given values with their lines.

Hugging Face's own JSON file is read by the same code. Nothing is guessed: an unknown key, a key in
the wrong part and a value of the wrong type are refused with the line and what is allowed.
"""

from __future__ import annotations

import difflib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from okno.config.flag import Flag
from okno.config.foreign_keys import SAID, is_known, objection
from okno.config.given import Given
from okno.config.tree import PARTS, Entry, by_key, entries
from okno.config.yaml_text import BOM, MAX_BYTES, Member, Node, bad, parse_text, shown
from okno.core.errors import BadSetting

NEAR = 0.6
NEEDS_NAMING = frozenset({"host", "listen", "api_key", "allowed_host", "allowed_origin"})


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A settings file as read. text: without BOM. found: it was only found in the current folder,
    nobody named it."""

    path: Path
    text: str
    root: Node | None
    bom: bool = False
    found: bool = False

    @property
    def name(self) -> str:
        """For messages: short, without folders."""
        return printable(self.path.name)


@dataclass(frozen=True, slots=True)
class FileLayer:
    """What a file gives: values by field name, all errors in order, and notes."""

    given: dict[str, Given]
    errors: tuple[BadSetting, ...]
    notes: tuple[str, ...]


def read_file(path: Path, *, found: bool = False) -> SettingsFile:
    """The file at `path`. Raises BadSetting when it cannot be read or is no sound YAML (or JSON,
    by its ending)."""
    return file_of(path, _bytes(path), found=found)


def file_of(path: Path, data: bytes, *, found: bool = False) -> SettingsFile:
    """`data` as the settings file at `path`. Errors as `read_file`."""
    name = printable(path.name)
    if len(data) > MAX_BYTES:
        raise BadSetting(
            f"{printable(str(path))} is larger than {MAX_BYTES // 1024} KiB, more than any "
            "settings file needs. Is it the right file?"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise bad(name, line, "not UTF-8. Save the file as UTF-8.") from None
    bare = text.removeprefix(BOM)
    return SettingsFile(path, bare, parse_text(bare, name), bare != text, found)


def _bytes(path: Path) -> bytes:
    """At most MAX_BYTES + 1 bytes of a regular file."""
    where = printable(str(path))
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BadSetting(f"{where} is not a file. Give the path of a settings file.")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadSetting(
            f"There is no settings file {where}. `okno config init` writes a commented one."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadSetting(f"{where} cannot be read: {reason}.") from None


def layer_of(file: SettingsFile) -> FileLayer:
    """The values that `file` gives, of the right types; bounds are checked with all other sources.
    A value of null counts as not given."""
    reader = _Layers(file)
    if file.root is not None and file.root.value is not None:
        reader.part("", file.root)
    return FileLayer(reader.given, tuple(reader.errors), tuple(reader.notes))


class _Layers:
    """Walks the two levels of a settings file and collects."""

    def __init__(self, file: SettingsFile) -> None:
        self._file = file
        self.given: dict[str, Given] = {}
        self.errors: list[BadSetting] = []
        self.notes: list[str] = []

    def part(self, part: str, node: Node) -> None:
        if not isinstance(node.value, dict):
            what = f"`{part}`" if part else "the file"
            self._error(node.line, f"{what} must hold settings, one `name: value` a line.")
            return
        for member in node.value.values():
            if not part and member.key in PARTS:
                if member.node.value is not None:
                    self.part(member.key, member.node)
                continue
            self._setting(part, member)

    def _setting(self, part: str, member: Member) -> None:
        key = f"{part}.{member.key}" if part else member.key
        entry = by_key().get(key)
        if entry is not None:
            self._value(entry, member)
        elif not part and is_known(key):
            self._foreign(member)
        else:
            self._error(member.line, unknown_key(part, member.key))

    def _value(self, entry: Entry, member: Member) -> None:
        value = member.node.plain
        if value is None:
            return
        if not fits(entry, value):
            written = "(hidden)" if entry.flag.secret else shown(_source(self._file, member.node))
            hint = _type_hint(entry, value)
            self._error(
                member.node.line, f"`{entry.key}` is {written}; it must be {entry.allowed}.{hint}"
            )
        elif self._file.found and entry.name in NEEDS_NAMING:
            self._error(
                member.line,
                f"`{entry.key}` decides who may reach this machine, so it counts only in a file "
                f"that you name: add --config {self._file.name}.",
            )
        else:
            where = f"{self._file.name}, line {member.line}"
            self.given[entry.name] = Given(value, "file", entry.key, where)

    def _foreign(self, member: Member) -> None:
        reason = objection(member.key, member.node.plain)
        if reason:
            written = shown(_source(self._file, member.node))
            self._error(
                member.line, f"`{member.key}: {written.strip('`')}` cannot be honoured: {reason}."
            )
        elif member.key in SAID and member.node.value is not None:
            self.notes.append(
                f"{self._file.name}, line {member.line}: `{member.key}` is not used; "
                f"{SAID[member.key]}."
            )

    def _error(self, line: int, reason: str) -> None:
        self.errors.append(bad(self._file.name, line, reason))


def _source(file: SettingsFile, node: Node) -> str:
    """The text of a value as it stands in the file."""
    return file.text[node.start : node.end] or "empty"


def fits(entry: Entry, value: object) -> bool:
    """True when a file's value has the type of `entry`; bounds are checked later."""
    if entry.choices:
        return value in entry.choices
    if isinstance(value, str) and value in entry.words:
        return True
    match entry.kind:
        case "switch":
            return isinstance(value, bool)
        case "whole":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "text":
            return isinstance(value, str)
        case "texts":
            texts = value if isinstance(value, list) else [value]
            return all(isinstance(text, str) for text in texts)


def _type_hint(entry: Entry, value: object) -> str:
    """What to change when only the quotes are wrong."""
    if entry.choices:
        near = difflib.get_close_matches(str(value), entry.choices, n=1, cutoff=NEAR)
        return f" Did you mean {near[0]}?" if near else ""
    if isinstance(value, str) and entry.kind in ("switch", "whole", "number"):
        bare = parse_text(value, "").plain if _is_plain(value) else None  # type: ignore[union-attr]
        return " Leave out the quotes." if bare is not None and fits(entry, bare) else ""
    if entry.kind in ("text", "texts") and isinstance(value, (bool, int, float)):
        return " Put it into quotes."
    return ""


def _is_plain(text: str) -> bool:
    return text.isalnum() or text.replace(".", "", 1).lstrip("-").isdigit()


def unknown_key(part: str, key: str) -> str:
    """What is wrong with `key` in `part`: its right place, its name here, or the nearest one."""
    place = f"under `{part}:`" if part else "at the top level"
    known = {entry.name: entry for entry in entries()}
    entry = known.get(key.replace("-", "_")) or _by_other_name(key)
    if entry is not None:
        return f"{shown(key)} is not known {place}; write {_as_line(entry)}."
    if part and (key in PARTS or is_known(key)):
        return f"{shown(key)} is not known {place}; it belongs at the top level."
    names = [entry.name for entry in entries() if entry.part == part] + ([] if part else ["load"])
    near = difflib.get_close_matches(key, names, n=1, cutoff=NEAR)
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=NEAR)
    if near:
        hint = _as_line(known[near[0]]) if near[0] in known else f"`{near[0]}:`"
        return f"{shown(key)} is not known {place}. Did you mean {hint}?"
    return f"{shown(key)} is not known {place}. `okno config schema` lists every key."


def _by_other_name(key: str) -> Entry | None:
    """The setting that other programs call `key`."""
    spelled = key.replace("_", "-").lstrip("-")
    for entry in entries():
        flag: Flag = entry.flag
        if any(name.strip("-") == spelled for name in (*flag.names, *flag.also)):
            return entry
    return None


def _as_line(entry: Entry) -> str:
    """How to write a setting: `ctx` under `load:`."""
    return f"`{entry.name}` under `{entry.part}:`" if entry.part else f"`{entry.name}`"


def printable(text: str) -> str:
    """A path for a message."""
    return text if text.isprintable() else ascii(text)
