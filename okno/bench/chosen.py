"""Cases of a measurement by words of their names, as `--cases` gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from okno.core.errors import BadSetting


class Named(Protocol):
    """Something that can be chosen."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
PARTED = re.compile(r"[,\s]+")


def matching(cases: Iterable[T], wanted: str | None) -> tuple[T, ...]:
    """Those whose name holds one of the words in `wanted`, which commas and white space part,
    whatever its case; all when it is None."""
    if wanted is None:
        return tuple(cases)
    words = [word for word in PARTED.split(wanted.lower()) if word]
    return tuple(case for case in cases if any(word in case.name.lower() for word in words))


def chosen(cases: Sequence[T], wanted: str | None) -> tuple[T, ...]:
    """`matching`. Raises BadSetting naming the words there are when nothing matches."""
    found = matching(cases, wanted)
    if not found:
        words = dict.fromkeys(word for case in cases for word in case.name.split())
        raise BadSetting(
            f"--cases {(wanted or '')[:80]!r}: no case has one of these words in its name. "
            f"Give some of {', '.join(words)}, or parts of them.",
            param="--cases",
        )
    return found
