"""Guesses from the sequences' own text: an index for each, and how often it was right.

A look costs about 10 us. So all are looked at whose text is repeating itself, and of the others a
few in each step, in turn: a copy is noticed a few tokens later.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from collections.abc import Sequence as Items

from okno.schedule.drafting import LEVELS, Acceptance, Offer
from okno.schedule.lookup import Guess, Lookup
from okno.schedule.sequence import Sequence

LONGEST_GUESS = 16
SHORT_GUESS, GUESSED_ROWS = 3, 48  # of one of many sequences; of all together, about
LOOKED_AT = 16  # sequences in one step at most
IN_TURN = 4  # of those whose text did not repeat itself
EXPECTED = tuple(max(1, level) / (max(1, level) + 3.0) for level in range(LEVELS))


class _Followed:
    """One sequence."""

    __slots__ = ("acceptance", "lookup")

    def __init__(self, sequence: Sequence, all_sequences: Acceptance, ends: Container[int]) -> None:
        self.lookup = Lookup(sequence.max_tokens, ends)
        self.acceptance = Acceptance(all_sequences)


class LookupSource:
    """Costs microseconds a sequence; what a guess would have been worth is learnt also when it
    was not checked. ends: tokens that end a text. guesses: the last ones."""

    def __init__(self, ends: Container[int] = ()) -> None:
        self._ends = ends
        self.guesses: dict[str, Guess] = {}
        self._all = Acceptance(EXPECTED)
        self._followed: dict[str, _Followed] = {}
        self._repeating: set[str] = set()
        self._turn = 0

    def keep(self, ids: Collection[str]) -> None:
        """Forget all sequences but these, when there is much to forget."""
        if len(self._followed) > 2 * len(ids) + LONGEST_GUESS:
            self._followed = {id: f for id, f in self._followed.items() if id in ids}
            self._repeating &= set(ids)

    def offers(self, sequences: Items[Sequence]) -> dict[str, Offer]:
        """What the text of some of them offers, by id; a long prompt is indexed in pieces first."""
        self.guesses = {}
        offers = {}
        most = min(LONGEST_GUESS, max(SHORT_GUESS, GUESSED_ROWS // max(1, len(sequences))))
        for sequence in self._looked_at(sequences):
            followed = self._of(sequence)
            if not followed.lookup.follow(sequence.known.view()):
                continue
            room = sequence.max_tokens - len(sequence.known) - 1
            guess = followed.lookup.guess(min(most, room))
            if guess is not None:
                self.guesses[sequence.id] = guess
                chances = followed.acceptance.chances(guess.level, len(guess.tokens))
                if chances:
                    offers[sequence.id] = Offer(sequence.id, chances)
        return offers

    def compare(self, id: str, came: Items[int]) -> None:
        """Learn from the last guess for `id`, if there was one, and the tokens that came."""
        if id in self.guesses:
            right = self._followed[id].acceptance.compare(self.guesses[id], came)
            (self._repeating.add if right else self._repeating.discard)(id)

    def _looked_at(self, sequences: Items[Sequence]) -> Items[Sequence]:
        if len(sequences) <= IN_TURN:
            return sequences
        repeating = [s for s in sequences if s.id in self._repeating][: LOOKED_AT - IN_TURN]
        others = [s for s in sequences if s.id not in self._repeating]
        self._turn += IN_TURN
        start = self._turn % max(1, len(others))
        return repeating + (others[start:] + others[:start])[:IN_TURN]

    def _of(self, sequence: Sequence) -> _Followed:
        followed = self._followed.get(sequence.id)
        if followed is None:
            followed = self._followed[sequence.id] = _Followed(sequence, self._all, self._ends)
        return followed
