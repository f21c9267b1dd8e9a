"""Prompt lookup: the next tokens of a sequence, guessed from where its end stood before.

Copies, edits, quotes and repeated code say again what prompt or answer said already (Saxena,
"Prompt Lookup Decoding", 2023). The index is that of LZ77 (as in zlib's deflate.c): a table of the
last place of each pair of tokens, and for each place the one before it; a third table has the
place of each token that stood once only, for a copy begins with a word of its source. A new token
costs three writes, a guess a walk of at most CANDIDATES places; all tables have a fixed size.
"""

from __future__ import annotations

from array import array
from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_MATCHED = 16
CANDIDATES = 16
PIECE_TOKENS = 1024  # indexed in one call at most: about 0.5 ms
MOST_INDEXED = 65_536  # the last so many tokens are found again
_LEAST_SLOTS = 64
_NOWHERE, _OFTEN = -1, -2  # where a token stands that is no single place


@dataclass(frozen=True, slots=True)
class Guess:
    """tokens: what may come next. level: how many tokens before them are the same at both places
    (0: a copy under way, behind a token that differs, or behind that and one more), or how far a
    draft model has guessed already: the more of the one, the likelier they are right, the more of
    the other, the less likely."""

    tokens: tuple[int, ...]
    level: int


class Lookup:
    """The index of one sequence. room_tokens: how long it may become. ends: tokens after which
    there is nothing to guess."""

    __slots__ = ("_before", "_ends", "_followed", "_heads", "_mask", "_once", "_places", "_tokens")

    def __init__(self, room_tokens: int, ends: Container[int] = ()) -> None:
        slots = 1 << (max(_LEAST_SLOTS, min(room_tokens, MOST_INDEXED)) - 1).bit_length()
        self._mask = slots - 1
        self._heads = array("i", [-1]) * slots
        self._before = array("i", [-1]) * slots
        self._places = array("i", [_NOWHERE]) * slots
        self._once = _NOWHERE  # where the newest token stood before, if that was once
        self._tokens = array("i")
        self._ends = ends
        self._followed: int | None = None  # how far back the place lies that is being copied

    def __len__(self) -> int:
        """How many tokens of the sequence it knows."""
        return len(self._tokens)

    def follow(self, known: NDArray[np.int32]) -> bool:
        """Learn what `known` has beyond what was learnt before, at most PIECE_TOKENS of it. True
        when that is all."""
        tokens, heads, before, mask = self._tokens, self._heads, self._before, self._mask
        places, place = self._places, self._once
        start = len(tokens)
        tokens.extend(known[start : start + PIECE_TOKENS].tolist())
        for at in range(start, len(tokens)):
            token = tokens[at]
            place = places[token & mask]
            places[token & mask] = at if place == _NOWHERE else _OFTEN
            if at:
                slot = _slot(tokens[at - 1], token) & mask
                before[at & mask] = heads[slot]
                heads[slot] = at
        self._once = place
        return len(tokens) == len(known)

    def guess(self, most: int) -> Guess | None:
        """Up to `most` next tokens, as they followed the place that looks most like the end: the
        longest match, of equals the one that is being copied, then the latest. A single token is a
        match where it stood once before, and a copy is tried on behind a token that differs. None:
        there is no match."""
        end = len(self._tokens) - 1
        best, matched = self._being_copied(end)
        at = self._earlier(end, end)
        for _ in range(CANDIDATES):
            if at < 1 or matched >= MOST_MATCHED:
                break
            length = self._matched(at, end)
            if length > matched:
                best, matched = at, length
            at = self._earlier(at, end)
        if matched < 2:
            best, matched = self._loosely(end)
        if best < 0 or most < 1:
            self._followed = None
            return None
        self._followed = end - best
        return Guess(self._after(best, end, most), matched)

    def _loosely(self, end: int) -> tuple[int, int]:
        """Likewise (place, level) where no two tokens match: the copy under way, behind a token
        that the source has not (of an edit) or one later; where the newest token stood once
        before. (-1, 0): nowhere."""
        place, matched = self._being_copied(end)
        if matched or (place >= 1 and self._matched(place - 1, end - 1) >= 2):
            return place, 0
        return (self._once, 1) if self._stood_once(end) else (-1, 0)

    def _being_copied(self, end: int) -> tuple[int, int]:
        """The place that the last guess came from, moved on with the sequence, and its match."""
        if self._followed is None:
            return -1, 0
        at = end - self._followed
        return at, self._matched(at, end)

    def _stood_once(self, end: int) -> bool:
        """The newest token stood at one place before, not too far back. Where several share an
        entry of the table none of them is found."""
        at = self._once
        return at >= 0 and end - at <= self._mask and self._tokens[at] == self._tokens[end]

    def _earlier(self, at: int, end: int) -> int:
        """The place before `at` that ends with the same pair (or one of its slot); -1: none that
        the table still holds."""
        earlier = self._before[at & self._mask] if at >= 1 else -1
        return earlier if end - earlier <= self._mask and earlier < at else -1

    def _matched(self, at: int, end: int) -> int:
        """How many tokens up to place `at` equal those up to the end."""
        tokens, most, length = self._tokens, min(MOST_MATCHED, at + 1), 0
        while length < most and tokens[at - length] == tokens[end - length]:
            length += 1
        return length

    def _after(self, at: int, end: int, most: int) -> tuple[int, ...]:
        """What followed `at`, up to a token that ends texts; beyond the end it goes on as a
        repetition."""
        found = self._tokens[at + 1 : at + 1 + most].tolist()
        period = end - at
        while len(found) < most:
            found.append(found[len(found) - period])
        ended = next((i for i, token in enumerate(found, 1) if token in self._ends), most)
        return tuple(found[:ended])


def _slot(first: int, second: int) -> int:
    """Where a pair of tokens belongs (multiplicative hashing, Knuth vol. 3, 6.4)."""
    return ((first * 0x9E3779B1 + second * 0x85EBCA77) & 0xFFFFFFFF) >> 11
