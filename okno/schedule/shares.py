"""The prompt rows of a step, shared between clients.

Weighted max-min fairness (water filling): nobody gets more than it wants, and what one client
leaves goes to the others by their weights. Within a client the first in turn takes all it wants.
So a short prompt beside a flood of long ones gets its part of every step, whoever came first.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Want:
    """A live prompt, in turn: whose it is, that client's weight, the rows it could take."""

    client: str
    weight: float
    rows: int


def shared_rows(wants: Items[Want], rows: int) -> list[int]:
    """Of `rows`, those of each want, in order; together min(rows, all that is wanted)."""
    left = _by_client(wants, max(0, rows))
    given = []
    for want in wants:
        own = min(want.rows, left[want.client])
        left[want.client] -= own
        given.append(own)
    return given


def _by_client(wants: Items[Want], rows: int) -> dict[str, int]:
    """What each client gets. Of whole rows that do not divide, the first in turn gets one more."""
    wanted: dict[str, int] = {}
    weights: dict[str, float] = {}
    for want in wants:
        wanted[want.client] = wanted.get(want.client, 0) + want.rows
        weights.setdefault(want.client, want.weight)
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
