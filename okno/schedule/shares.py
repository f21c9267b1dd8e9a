"""The prompt rows of a step, shared between clients.

Weighted max-min fairness (water filling): nobody gets more than it wants, and what one client
leaves goes to the others by their weights. Within a client the first in turn takes all it wants.
So a short prompt beside a flood of long ones gets its part of every step, whoever came first.

Whoever wants no more than its share of the next few steps (of the next few hundred rows, where
steps are small, and short) has it at once: its first token comes sooner, and over these steps the
others lose nothing: what it had before it was due counts with what it wants next, until as much
went to others. A part of each step stays theirs, so that a row of short ones, each by a client of
its own, holds nobody up; in steps too small to have such a part nobody goes first. Nor does anybody
go before one that weighs more, to which more is due than that part.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

SHORT_STEPS, SHORT_ROWS = 4, 256
OTHERS_PART = 8  # one in so many rows


@dataclass(frozen=True, slots=True)
class Want:
    """A live prompt, in turn: whose it is, that client's weight, the rows it could take in this
    step, and those of later steps."""

    client: str
    weight: float
    rows: int
    later: int = 0


class Shares:
    """Who gets which rows of a step; remembers who went before others in earlier ones."""

    def __init__(self) -> None:
        self._ahead: dict[str, float] = {}  # rows by weight beyond the client's share, so far

    def of_step(self, wants: Items[Want], rows: int) -> list[int]:
        """Of `rows`, those of each want, in order; together min(rows, all that is wanted)."""
        if not wants:
            self._ahead.clear()
            return []
        left = self._by_client(wants, max(0, rows))
        given = []
        for want in wants:
            own = min(want.rows, left[want.client])
            left[want.client] -= own
            given.append(own)
        return given

    def _by_client(self, wants: Items[Want], rows: int) -> dict[str, int]:
        """What each client gets."""
        wanted: dict[str, int] = {}
        whole: dict[str, int] = {}
        weights: dict[str, float] = {}
        for want in wants:
            wanted[want.client] = wanted.get(want.client, 0) + want.rows
            whole[want.client] = whole.get(want.client, 0) + want.rows + want.later
            weights.setdefault(want.client, want.weight)
        even = _filled(wanted, weights, rows)
        short = self._short(whole, weights, rows) if rows >= OTHERS_PART else []
        got = _with_first(short, wanted, weights, rows) if short else even
        self._remember(got, even, weights)
        return got

    def _short(
        self, whole: Mapping[str, int], weights: Mapping[str, float], rows: int
    ) -> list[str]:
        """Clients whose prompts are done with their share of SHORT_STEPS steps of `rows`, or of
        SHORT_ROWS, less what they had before it was due, in turn; but those that weigh less than
        one of the others."""
        due = max(SHORT_STEPS * rows, SHORT_ROWS) / sum(weights.values())
        few = [
            client for client, wanted in whole.items()
            if wanted / weights[client] + self._ahead.get(client, 0.0) <= due
        ]  # fmt: skip
        heaviest = max((weights[client] for client in whole.keys() - few), default=0.0)
        return [client for client in few if weights[client] >= heaviest]

    def _remember(
        self, got: Mapping[str, int], even: Mapping[str, int], weights: Mapping[str, float]
    ) -> None:
        """What clients got beyond their share; whoever asked for nothing gave its share back."""
        share = sum(got.values()) / sum(weights.values())
        ahead = {client: v - share for client, v in self._ahead.items() if client not in got}
        for client, rows in got.items():
            more = (rows - even[client]) / weights[client]
            ahead[client] = self._ahead.get(client, 0.0) + more
        self._ahead = {client: v for client, v in ahead.items() if v > 0.0}


def _with_first(
    short: Items[str], wanted: Mapping[str, int], weights: Mapping[str, float], rows: int
) -> dict[str, int]:
    """The rows of each, the `short` ones first but for OTHERS_PART."""
    left = min(rows, sum(wanted.values()))
    long = {client: n for client, n in wanted.items() if client not in short}
    theirs = left - min(left // OTHERS_PART, sum(long.values()))
    got = {}
    for client in short:
        got[client] = min(wanted[client], theirs)
        theirs -= got[client]
    return got | _filled(long, weights, left - sum(got.values()))


def _filled(wanted: Mapping[str, int], weights: Mapping[str, float], rows: int) -> dict[str, int]:
    """`rows` by weight. Of whole rows that do not divide, the first in turn gets one more."""
    got = dict.fromkeys(wanted, 0)
    left = min(rows, sum(wanted.values()))
    while left:
        open_ = [client for client in wanted if got[client] < wanted[client]]
        total, round_rows = sum(weights[client] for client in open_), left
        for client in open_:
            part = max(1, int(round_rows * weights[client] / total))
            more = min(part, wanted[client] - got[client], left)
            got[client] += more
            left -= more
    return got
