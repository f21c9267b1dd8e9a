"""Prompts of a given number of words, no two of which begin alike unless that is asked for.

A server that keeps prefixes would answer a repeated beginning faster than a new one; here only the
words of `shared_prefix` are shared, and a load with the same seed repeats its prompts exactly.
"""

from __future__ import annotations

import random
from functools import cache
from importlib.resources import files

LEAST_LETTERS, MOST_LETTERS = 3, 6
SOURCE = "depth_ru_en.txt"


@cache
def words() -> tuple[str, ...]:
    """Short English words of the text that ships with okno, each once, sorted."""
    text = (files("okno") / "data" / SOURCE).read_text(encoding="utf-8")
    found = {
        word
        for word in text.lower().split()
        if word.isascii() and word.isalpha() and LEAST_LETTERS <= len(word) <= MOST_LETTERS
    }
    return tuple(sorted(found))


class Prompts:
    """The prompts of one load, by number."""

    def __init__(self, seed: int, shared_prefix_words: int = 0) -> None:
        self._seed = seed
        self._openings = list(words())
        random.Random(f"openings {seed}").shuffle(self._openings)
        shared = random.Random(f"shared {seed}").choices(words(), k=shared_prefix_words)
        self._shared = " ".join(shared) + " " if shared else ""

    def prompt(self, number: int, n_words: int) -> str:
        """Prompt `number`: what all share, then n_words of its own. The first two words name the
        number, so two prompts differ at their first or second own word."""
        count = len(self._openings)
        first = self._openings[number % count]
        second = self._openings[number // count % count]
        rest = random.Random(f"prompt {self._seed} {number}").choices(
            words(), k=max(0, n_words - 2)
        )
        return self._shared + " ".join([first, second, *rest][: max(1, n_words)])
