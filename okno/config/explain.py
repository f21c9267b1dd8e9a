"""Each setting with its value and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from okno.config.given import Source
from okno.config.load import Loaded, env_name
from okno.config.tree import Entry, entries

HIDDEN = "(hidden)"
Plain = bool | int | float | str | list[str] | None


@dataclass(frozen=True, slots=True)
class Explained:
    """A setting in effect. value: as JSON has it; `auto` where okno chooses, None where nothing is
    set, `(hidden)` for a secret. origin: the flag, variable, or place in a file; empty for a
    default. flag, variable: what would set it."""

    key: str
    value: Plain
    source: Source
    origin: str
    default: Plain
    flag: str
    variable: str


def explain(loaded: Loaded) -> tuple[Explained, ...]:
    """Every setting that a file may hold, in the file's order."""
    return tuple(_explained(loaded, entry) for entry in entries())


def _explained(loaded: Loaded, entry: Entry) -> Explained:
    given = loaded.given.get(entry.name)
    value = plain(entry, getattr(loaded.settings, entry.name))
    return Explained(
        key=entry.key,
        value=HIDDEN if entry.flag.secret and value is not None else value,
        source=given.source if given else "default",
        origin=given.origin if given else "",
        default=plain(entry, entry.default),
        flag=entry.flag.long,
        variable=env_name(entry.name),
    )


def plain(entry: Entry, value: object) -> Plain:
    """A checked value as JSON and YAML have it."""
    if value is None:
        return "auto" if "auto" in entry.words else None
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value if isinstance(value, (bool, int, float)) else str(value)


def source_text(explained: Explained) -> str:
    """`default`, `command line: --ctx`, `file: generation_config.yaml, line 3`."""
    return f"{explained.source}: {explained.origin}" if explained.origin else explained.source
