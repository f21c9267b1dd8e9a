"""Tokens that are found in a text itself, before the rest of it is cut into words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping


class AddedTokens:
    """The first place counts, of several tokens there the longest."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self.pattern = added_pattern(ids)

    def cut(self, text: str) -> Iterator[str | int]:
        """The parts of `text`: ids of these tokens, and the text between, none of it empty."""
        parts = self.pattern.split(text) if self.pattern else [text]
        for place, part in enumerate(parts):
            if part:
                yield self._ids[part] if place % 2 else part


def added_pattern(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Finds tokens that are matched in the text itself, the longest first; None without any."""
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return (
        re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
    )
