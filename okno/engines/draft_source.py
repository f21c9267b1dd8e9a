"""Guesses of a draft model: for whom it is asked, when it catches up, when it is tried again.

Unlike a look into the text (schedule/lookup.py) they cost time, so a sequence whose guesses do not
pay is left alone, and the draft model falls behind it. Catching up is an investment: it is begun
when speculation owes nothing (schedule/drafting.py, Account), and goes on by a piece in each step,
of one sequence at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as Items

from okno.engines.drafter import Drafter
from okno.schedule.drafting import LEVELS, Acceptance, Account, Offer, Patience
from okno.schedule.lookup import Guess
from okno.schedule.sequence import Sequence

CATCH_UP_ROWS = 8  # what it may lack and still guess in this step
PIECE_ROWS = 64  # by which it catches up in one step
EXPECTED = (0.6,) * LEVELS


class _Tried:
    """One sequence: how often the draft model was right, and when to try it again."""

    __slots__ = ("acceptance", "patience")

    def __init__(self, all_sequences: Acceptance) -> None:
        self.acceptance = Acceptance(all_sequences)
        self.patience = Patience()


class DraftSource:
    """drafter guesses at most most_tokens at once. spent_s, invested_s: seconds that its last
    guesses took, and the catching up before them."""

    def __init__(
        self,
        drafter: Drafter,
        most_tokens: int,
        account: Account,
        clock: Callable[[], float],
    ) -> None:
        self.spent_s = self.invested_s = 0.0
        self.seconds = drafter.seconds
        self._drafter = drafter
        self._most_tokens = most_tokens
        self._account = account
        self._clock = clock
        self._all = Acceptance(EXPECTED)
        self._tried: dict[str, _Tried] = {}
        self._trials: set[str] = set()
        self._catching_up = ""

    def keep(self, ids: Collection[str]) -> None:
        """Forget all sequences but these."""
        self._drafter.keep(ids)
        self._tried = {id: tried for id, tried in self._tried.items() if id in ids}

    def offers(
        self, sequences: Items[Sequence], own: Mapping[str, Offer], pays: Callable[[Offer], bool]
    ) -> dict[str, Offer]:
        """What the draft model could guess of sequences for which their own text offers less
        (`own`). With one of those that it has fallen behind it catches up by a piece."""
        found: dict[str, Offer] = {}
        lagging: dict[str, tuple[Sequence, Offer]] = {}
        for sequence in sequences:
            offer = self._offer(sequence)
            if offer is None or _is_better(own.get(sequence.id), offer):
                continue
            if self._drafter.behind(sequence.id, sequence.known.view()) <= CATCH_UP_ROWS:
                found[sequence.id] = offer
            else:
                lagging[sequence.id] = (sequence, offer)
        self._catch_up(lagging, pays)
        return found

    def draft(
        self, sequences: Items[Sequence], offers: Mapping[str, Offer], lengths: Mapping[str, int]
    ) -> dict[str, Guess]:
        """Guesses of `lengths` tokens, and of one token of those who are to be tried."""
        self._trials = set()
        self.spent_s = 0.0
        wanted = {}
        for sequence in sequences:
            if sequence.id in offers:
                length = lengths.get(sequence.id, 0) or self._trial(sequence.id)
                if length:
                    wanted[sequence.id] = (sequence.known.view(), length)
        if not wanted:
            return {}
        started = self._clock()
        drafted = self._drafter.draft(wanted)
        self.spent_s = self._clock() - started
        return {id: Guess(tokens, 0) for id, tokens in drafted.items()}

    def compare(self, id: str, guess: Guess, came: Items[int]) -> None:
        """Learn from a guess of `draft` and the tokens that came."""
        tried = self._of(id)
        right = tried.acceptance.compare(guess, came)
        if id in self._trials:
            tried.patience.tried(worked=right > 0)

    def _of(self, id: str) -> _Tried:
        if id not in self._tried:
            self._tried[id] = _Tried(self._all)
        return self._tried[id]

    def _offer(self, sequence: Sequence) -> Offer | None:
        count = min(self._most_tokens, sequence.max_tokens - len(sequence.known) - 1)
        if count < 1:
            return None
        return Offer(sequence.id, self._of(sequence.id).acceptance.chances(0, count), drafted=True)

    def _trial(self, id: str) -> int:
        """Tokens to guess only to learn whether they are right: one, when it is time."""
        if not (self._account.may_invest and self._of(id).patience.is_over()):
            return 0
        self._trials.add(id)
        return 1

    def _catch_up(
        self, lagging: Mapping[str, tuple[Sequence, Offer]], pays: Callable[[Offer], bool]
    ) -> None:
        """By a piece of the sequence that was begun with; else begin with one whose guesses are
        expected to pay, or whose turn to be tried has come."""
        self.invested_s = 0.0
        if self._catching_up not in lagging:
            may_begin = self._account.may_invest
            worth = (id for id, (_, offer) in lagging.items() if self._is_worth(offer, pays))
            self._catching_up = next(worth, "") if may_begin else ""
        if self._catching_up:
            sequence, _ = lagging[self._catching_up]
            started = self._clock()
            self._drafter.advance(sequence.id, sequence.known.view(), PIECE_ROWS)
            self.invested_s = self._clock() - started
            self._account.invest(self.invested_s)

    def _is_worth(self, offer: Offer, pays: Callable[[Offer], bool]) -> bool:
        return pays(offer) or self._of(offer.id).patience.is_over()


def _is_better(own: Offer | None, drafted: Offer) -> bool:
    return own is not None and own.chances[:1] >= drafted.chances[:1]
