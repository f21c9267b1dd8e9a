"""The settings tree as data: each setting's place in the file, its kind, bounds and default.

Everything generated (schema, sample, reference page) and the check of a file's types read this;
it is derived from the declarations in settings*.py and adds nothing.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from okno.config import fields
from okno.config.flag import Flag
from okno.config.settings import ServeSettings, flag_of

Kind = Literal["switch", "whole", "number", "text", "texts"]
PARTS = ("", "load", "server")  # "": the top level, Hugging Face's own names
PART_OF: Mapping[str, str] = {
    fields.GENERATION: "",
    fields.MODEL: "load",
    fields.WINDOW: "load",
    fields.ENGINE: "load",
    fields.SERVER: "server",
}
KINDS: Mapping[object, Kind] = {
    bool: "switch", int: "whole", float: "number", str: "text", Path: "text", tuple: "texts",
}  # fmt: skip
NOUNS: Mapping[Kind, str] = {
    "switch": "true or false",
    "whole": "a whole number",
    "number": "a number",
    "text": "a text",
    "texts": "a text or a list of texts",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A setting of the file. low, high: bounds, ends included unless `above`; words: texts that
    stand for a value (`auto`); choices: the only texts allowed."""

    name: str
    part: str
    flag: Flag
    kind: Kind
    default: object
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: bool = False

    @property
    def key(self) -> str:
        """Its place in the file: `temperature`, `load.ctx`."""
        return f"{self.part}.{self.name}" if self.part else self.name

    @property
    def allowed(self) -> str:
        """What it takes, in words: `a whole number from 16 to 16,777,216, or auto`."""
        if self.choices:
            return " or ".join((", ".join(self.choices[:-1]), self.choices[-1]))
        return ", or ".join([f"{NOUNS[self.kind]}{self._range()}", *self.words])

    def _range(self) -> str:
        if self.low is None or self.high is None:
            return ""
        if self.above:
            return f" above {figure(self.low)}, at most {figure(self.high)}"
        return f" from {figure(self.low)} to {figure(self.high)}"


def figure(value: float) -> str:
    """`16,777,216`, `0.5`."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every setting that may stand in the file, in the file's order."""
    found = [
        entry_of(name) for name in ServeSettings.model_fields if flag_of(name).in_file
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda entry: PARTS.index(entry.part)))


@functools.cache
def by_key() -> Mapping[str, Entry]:
    """The entries by their place in the file."""
    return {entry.key: entry for entry in entries()}


@functools.cache
def entry_of(name: str) -> Entry:
    """Setting `name` as data; a setting that may not stand in the file has the part ""."""
    field, flag = ServeSettings.model_fields[name], flag_of(name)
    kind, choices = _kind(field.annotation)
    low, high, above = _bounds(field.metadata)
    words = () if choices else _words(flag.metavar or "")
    default = field.default
    return Entry(
        name, PART_OF.get(flag.section, ""), flag, kind, default, choices, words, low, high, above
    )  # fmt: skip


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    """The kind of a field's type, and its choices if it has some."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        (inner,) = (arm for arm in get_args(annotation) if arm is not type(None))
        return _kind(inner)
    if origin is Literal:
        return "text", get_args(annotation)
    return KINDS[origin or annotation], ()


def _bounds(metadata: Iterable[Any]) -> tuple[float | None, float | None, bool]:
    found = {
        key: value
        for item in metadata
        for key in ("gt", "ge", "le")
        if (value := getattr(item, key, None)) is not None
    }
    return found.get("gt", found.get("ge")), found.get("le"), "gt" in found


def _words(metavar: str) -> tuple[str, ...]:
    """The words among what may stand for the value: those in lower case."""
    return tuple(word for word in metavar.split("|") if word.islower())
