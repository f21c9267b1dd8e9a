"""Canaries: a random word in each prompt that no other client's answer may contain."""

from __future__ import annotations

import random
import re

LENGTH = 8
ALPHABET = "BCDFGHKLMNPRSTVWXZ"
_RUN = re.compile(f"[{ALPHABET}]{{{LENGTH},}}")


class Canaries:
    """Issues unique words and finds those of others in a text.

    Two words out of 18^8 (11 billion) meet by chance once in some hundred thousand answers of
    noise at 10,000 issued words, so a find is a leak.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._issued: set[str] = set()

    def issue(self) -> str:
        """A word that was never issued before."""
        while True:
            word = "".join(self._random.choices(ALPHABET, k=LENGTH))
            if word not in self._issued:
                self._issued.add(word)
                return word

    def __len__(self) -> int:
        return len(self._issued)

    def foreign(self, own: str, text: str) -> set[str]:
        """Issued words other than `own` that occur anywhere in `text`, also inside longer runs."""
        windows = {
            run[start : start + LENGTH]
            for run in _RUN.findall(text)
            for start in range(len(run) - LENGTH + 1)
        }
        return (windows & self._issued) - {own}
