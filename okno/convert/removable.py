"""What can be removed, as a plain value, and which entries of a listing a name means exactly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from okno.inspect.listing import Checkpoint, LocalModel, missing_parts
from okno.inspect.names import key


@dataclass(frozen=True, slots=True)
class Removal:
    """name: for people. what: a word for it. exactly: what means this and nothing else. models: the
    names of the models that go. files: what is unlinked; within: where folders that are empty then
    go, too. repository: of the hub's cache, when all of it goes, or (commit) one revision of it.
    others: how many files of the folder are no part of the model and stay."""

    name: str
    what: str
    exactly: str
    size_bytes: int
    models: tuple[str, ...]
    files: tuple[Path, ...] = ()
    within: Path | None = None
    repository: str | None = None
    commit: str | None = None
    others: int = 0


def called(asked: str, entries: Sequence[LocalModel | Checkpoint]) -> list[LocalModel | Checkpoint]:
    """The entry at that very path, else those of that very name, else of that spelling."""
    places = _places(asked)
    by_path = [entry for entry in entries if entry.path in places]
    by_name = [entry for entry in entries if key(entry.name) == key(asked)]
    if by_path or by_name:
        return by_path or by_name
    return [entry for entry in entries if key(asked) in {key(word) for word in entry.spellings}]


def _places(asked: str) -> tuple[Path, ...]:
    """Where `asked` is when it is written as a path, links in its folder followed or not."""
    if "/" not in asked and os.sep not in asked:
        return ()
    try:
        path = Path(asked).expanduser().absolute()
        return path, path.parent.resolve() / path.name
    except (OSError, RuntimeError, ValueError):  # no such home, a loop of links, odd characters
        return ()


def parts_of(path: Path) -> tuple[Path, ...]:
    """A model file with the others of a split model."""
    others = (path.with_name(name) for name in missing_parts([path.name]))
    return (path, *(other for other in others if other.is_file()))
