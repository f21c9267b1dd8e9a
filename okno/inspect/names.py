"""Which entries a name means: exactly, or by a beginning or part that only one has. Pure."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar


class Named(Protocol):
    """Something with a name and further spellings of it."""

    @property
    def name(self) -> str: ...

    @property
    def spellings(self) -> tuple[str, ...]: ...


T = TypeVar("T", bound=Named)


def candidates(asked: str, entries: Sequence[T]) -> list[T]:
    """The entries that `asked` means, by the first rule that finds any: the same spelling; the
    same without regard to case; `owner/name` as `owner_name` or, of no known owner, `name`; `name`
    of one owner's `owner_name`; the same with `_` for `-`; a common beginning; a part.

    `owner/name` is never a beginning or a part: it may be a repository that is not here.
    """
    wanted = key(asked)
    last = wanted.rsplit("/", 1)[-1]
    rules: list[Callable[[str], bool]] = [
        lambda spelling: _nfc(spelling) == _nfc(asked),
        lambda spelling: key(spelling) == wanted,
        lambda spelling: key(spelling) == wanted.replace("/", "_"),
        lambda spelling: key(spelling).partition("_")[2] == wanted,
        lambda spelling: _dashed(spelling) == _dashed(asked),
        lambda spelling: _dashed(key(spelling).partition("_")[2]) == _dashed(asked),
    ]
    if "/" not in asked:
        rules += [lambda word: key(word).startswith(wanted), lambda word: wanted in key(word)]
    for rule in rules:
        found = [entry for entry in entries if any(rule(word) for word in entry.spellings)]
        if found:
            return found
    return [entry for entry in entries if "/" in asked and _without_owner(entry, last)]


def _without_owner(entry: Named, last: str) -> bool:
    """It is called `last`, and nothing says whose it is."""
    words = [key(word) for word in entry.spellings]
    return last in words and not any(word.endswith((f"/{last}", f"_{last}")) for word in words)


def nearest(asked: str, names: Sequence[str]) -> list[str]:
    """Up to three of `names` that look like `asked`."""
    by_key = {key(name): name for name in names}
    return [by_key[near] for near in difflib.get_close_matches(key(asked), by_key, n=3, cutoff=0.5)]


def key(name: str) -> str:
    """A spelling in which upper and lower case and Unicode composition do not count."""
    return _nfc(_nfc(name).casefold())


def _dashed(name: str) -> str:
    return key(name).replace("_", "-")


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)
