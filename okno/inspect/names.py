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
    same without regard to case; `org/name` as `org_name` or `name`; a common beginning; a part."""
    wanted = key(asked)
    last = key(asked.rsplit("/", 1)[-1])
    rules: list[Callable[[str], bool]] = [
        lambda spelling: _nfc(spelling) == _nfc(asked),
        lambda spelling: key(spelling) == wanted,
        lambda spelling: key(spelling) in (wanted.replace("/", "_"), last),
        lambda spelling: key(spelling).startswith(wanted),
        lambda spelling: wanted in key(spelling),
    ]
    for rule in rules:
        found = [entry for entry in entries if any(rule(word) for word in entry.spellings)]
        if found:
            return found
    return []


def nearest(asked: str, names: Sequence[str]) -> list[str]:
    """Up to three of `names` that look like `asked`."""
    by_key = {key(name): name for name in names}
    return [by_key[near] for near in difflib.get_close_matches(key(asked), by_key, n=3, cutoff=0.5)]


def key(name: str) -> str:
    """A spelling in which upper and lower case and Unicode composition do not count."""
    return _nfc(_nfc(name).casefold())


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)
