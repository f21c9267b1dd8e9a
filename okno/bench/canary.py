"""Canaries: a random number in each prompt that no other client's answer may contain."""

from __future__ import annotations

import random
import re

DIGITS = 10
_RUN = re.compile(rf"[0-9]{{{DIGITS},}}")


class Canaries:
    """Issues unique numbers and finds those of others in a text.

    Digits, because the demo model repeats them exactly: answers do contain canaries, so a leak
    would show. Ten of them, because a number out of 10^10 meets one of 20,000 issued by chance
    once in 500,000, so a find is a leak.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._issued: set[str] = set()

    def issue(self) -> str:
        """A number, as text, that was never issued before."""
        while True:
            number = "".join(self._random.choices("0123456789", k=DIGITS))
            if number not in self._issued:
                self._issued.add(number)
                return number

    def __len__(self) -> int:
        return len(self._issued)

    def foreign(self, own: str, text: str) -> set[str]:
        """Issued numbers other than `own` that occur anywhere in `text`, also in longer runs."""
        windows = {
            run[start : start + DIGITS]
            for run in _RUN.findall(text)
            for start in range(len(run) - DIGITS + 1)
        }
        return (windows & self._issued) - {own}
