"""Words, characters and tokens of a text by script. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Script = Literal["cyrillic", "latin", "other"]
SCRIPTS: tuple[Script, ...] = ("cyrillic", "latin", "other")
WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
CYRILLIC = re.compile(r"[\u0400-\u052f]")
LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")


@dataclass(frozen=True, slots=True)
class Span:
    """A word with what follows it up to the next one. start: in the text."""

    start: int
    script: Script
    is_word: bool = True


@dataclass(frozen=True, slots=True)
class Count:
    words: int
    characters: int
    tokens: int

    @property
    def words_per_token(self) -> float:
        return self.words / self.tokens if self.tokens else 0.0


def spans(text: str) -> list[Span]:
    """The text cut into words; what comes before the first one belongs to it."""
    found = [Span(match.start(), script_of(match.group())) for match in WORD.finditer(text)]
    if not found:
        return [Span(0, "other", is_word=False)] if text else []
    return [Span(0, found[0].script), *found[1:]]


def script_of(word: str) -> Script:
    """What most of its letters are; `other` without Cyrillic and Latin ones."""
    cyrillic, latin = len(CYRILLIC.findall(word)), len(LATIN.findall(word))
    if not cyrillic and not latin:
        return "other"
    return "cyrillic" if cyrillic >= latin else "latin"


def texts_of(text: str) -> dict[Script, str]:
    """The spans of each script, joined."""
    parts: dict[Script, list[str]] = {script: [] for script in SCRIPTS}
    for span, piece in _pieces(text):
        parts[span.script].append(piece)
    return {script: "".join(pieces) for script, pieces in parts.items()}


def tokens_by_script(text: str, lengths: Sequence[int]) -> dict[Script, int]:
    """How many tokens each script takes. lengths: UTF-8 bytes of each token of the whole text.

    A token belongs to the span in which it ends: it may begin with the space before a word.
    """
    starts, found, at = [], [], 0
    for span, piece in _pieces(text):
        starts.append(at)
        found.append(span.script)
        at += len(piece.encode())
    counts = dict.fromkeys(SCRIPTS, 0)
    end = 0
    for length in lengths:
        end += length
        counts[found[bisect_right(starts, max(end - 1, 0)) - 1]] += 1
    return counts


def counts_of(text: str, tokens: dict[Script, int]) -> dict[Script, Count]:
    """All counts by script."""
    words = dict.fromkeys(SCRIPTS, 0)
    for span in spans(text):
        words[span.script] += span.is_word
    characters = {script: len(part) for script, part in texts_of(text).items()}
    return {script: Count(words[script], characters[script], tokens[script]) for script in SCRIPTS}


def _pieces(text: str) -> Iterator[tuple[Span, str]]:
    found = spans(text)
    ends = [*(span.start for span in found[1:]), len(text)][: len(found)]
    for span, end in zip(found, ends, strict=True):
        yield span, text[span.start : end]
