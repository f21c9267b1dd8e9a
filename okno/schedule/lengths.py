"""How long answers become, from those that ended lately.

An answer that ran into its own limit (`max_tokens`, the window) would have been longer: it says
only that answers last at least so long. So the share of answers that reach a length is estimated
as that of patients who survive a time (Kaplan and Meier, "Nonparametric Estimation from Incomplete
Observations", 1958), and an answer under way is expected to be like those that got as far as it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

REMEMBERED = 64
PRIOR_TOKENS = 256  # one answer of this length is always among them: the first guess


@dataclass(frozen=True, slots=True)
class _Curve:
    """ends: lengths at which answers ended, ascending from 0. share: of answers longer than each;
    area: under the share, from 0 to each end."""

    ends: list[int]
    share: list[float]
    area: list[float]

    def area_to(self, length: float) -> float:
        at = bisect_right(self.ends, length) - 1
        return self.area[at] + self.share[at] * (length - self.ends[at])

    def share_at(self, length: float) -> float:
        return self.share[bisect_right(self.ends, length) - 1]


class AnswerLengths:
    """The lengths of the last answers, and what they make expect of the next."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, bool]] = deque(maxlen=REMEMBERED)
        self._curve: _Curve | None = None

    def learn(self, tokens: int, *, cut: bool) -> None:
        """An answer of `tokens` ended; cut: its limit ended it."""
        self._seen.append((tokens, cut))
        self._curve = None

    def remaining(self, generated: int, limit: int) -> float:
        """Tokens that an answer of at most `limit` tokens still gets when it has `generated`."""
        if generated >= limit:
            return 0.0
        curve = self._curve = self._curve or _curve([*self._seen, (PRIOR_TOKENS, False)])
        share = curve.share_at(generated)
        if share <= 0:  # longer than any: as much again (it may be anywhere in its life)
            return float(min(limit - generated, max(generated, 1)))
        return (curve.area_to(limit) - curve.area_to(generated)) / share


def _curve(seen: list[tuple[int, bool]]) -> _Curve:
    """The Kaplan-Meier estimate; at equal lengths the cut ones count as longer."""
    ends, share, area = [0], [1.0], [0.0]
    longer = len(seen)
    for tokens, cut in sorted(seen):
        if not cut:
            area.append(area[-1] + share[-1] * (tokens - ends[-1]))
            share.append(share[-1] * (1 - 1 / longer))
            ends.append(tokens)
        longer -= 1
    return _Curve(ends, share, area)
