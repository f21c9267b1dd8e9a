"""Token bytes to safe text: whole characters only, nothing that could still become a stop string.

The text is a pure function of the bytes pushed so far, however they are cut into pieces, so a
replay of the same tokens gives the same text.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class TextDelta(NamedTuple):
    """Text that became certain, and the stop string that ended it (None: go on)."""

    text: str
    stop: str | None = None


class TextStream:
    """Decodes UTF-8 incrementally and ends at a stop string.

    An incomplete character is held back; invalid bytes become U+FFFD, as `bytes.decode` with
    errors="replace" would do on the whole. Text that could be the beginning of a stop string is
    held back until that is decided; nothing released is ever taken back.

    The stop that wins is the one whose last character comes first; of several that end there,
    the longest (it starts first). The text ends before it, or after it with include_stop.
    """

    def __init__(self, stops: Iterable[str] = (), *, include_stop: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = _StopAutomaton.of(tuple(sorted(set(stops))))
        self._include_stop = include_stop
        self._state = 0
        self._held = ""
        self.stop: str | None = None

    def push(self, piece: bytes) -> TextDelta:
        """Add the bytes of one token. After a stop, further bytes change nothing."""
        if self.stop is not None:
            return TextDelta("", self.stop)
        if piece.isascii() and not self._decoder.buffer:
            new = str(piece, "ascii")
        else:
            new = self._decoder.decode(piece)
        return TextDelta(self._take(new) if self._stops.words else new, self.stop)

    def finish(self) -> str:
        """Release what is held back. An incomplete character becomes one U+FFFD."""
        if self.stop is not None:
            return ""
        text = self._take(self._decoder.decode(b"", final=True))
        if self.stop is None:
            text, self._held = text + self._held, ""
        return text

    def _take(self, new: str) -> str:
        """The part of held + new text that is certain; keeps the rest, sets `stop` on a match."""
        if not self._stops.words:
            return new
        text = self._held + new
        end, self._state, self.stop = self._stops.scan(self._state, new)
        if self.stop is None:
            certain = len(text) - self._stops.depth[self._state]
        else:
            stop_end = len(self._held) + end
            certain = stop_end if self._include_stop else stop_end - len(self.stop)
        self._held = text[certain:] if self.stop is None else ""
        return text[:certain]


class _StopAutomaton:
    """Aho-Corasick: a state is the longest end of the text that begins some stop string, so its
    depth is exactly what must be held back. One dictionary step per character."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.depth = [0]
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._match: list[str | None] = [None]
        for word in words:
            self._match[self._add(word)] = word
        self._link()

    @staticmethod
    @lru_cache(maxsize=16)
    def of(words: tuple[str, ...]) -> _StopAutomaton:
        """The automaton of `words`; choices of one request share it."""
        return _StopAutomaton(words)

    def scan(self, state: int, text: str) -> tuple[int, int, str | None]:
        """Read `text` from `state` up to the first match: (characters read, state, match)."""
        for i, char in enumerate(text):
            while state and char not in self._next[state]:
                state = self._fail[state]
            state = self._next[state].get(char, 0)
            if self._match[state] is not None:
                return i + 1, state, self._match[state]
        return len(text), state, None

    def _add(self, word: str) -> int:
        state = 0
        for char in word:
            if char not in self._next[state]:
                self._next[state][char] = len(self.depth)
                self.depth.append(self.depth[state] + 1)
                self._next.append({})
                self._fail.append(0)
                self._match.append(None)
            state = self._next[state][char]
        return state

    def _link(self) -> None:
        """Failure links, breadth first; a state whose link matches ends that match as well."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            if self._match[state] is None:
                self._match[state] = self._match[self._fail[state]]
            for char, child in self._next[state].items():
                link = self._fail[state]
                while link and char not in self._next[link]:
                    link = self._fail[link]
                self._fail[child] = self._next[link].get(char, 0)
                queue.append(child)
