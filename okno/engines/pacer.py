"""How many prompt rows a step may take, so that nobody waits long for the next token.

The cost of a prompt row is learnt from the steps themselves. While somebody decodes, the prompt
pieces of a step get MIXED_S seconds (the gap between tokens that a long prompt costs its
neighbours); otherwise ALONE_S, short enough that a client who leaves frees its sequence within
two seconds. Prefill is as fast in pieces of 64 as of 512 tokens (docs/decisions.md), so this
costs little.
"""

from __future__ import annotations

MIXED_S = 0.2
ALONE_S = 0.5
FIRST_ROWS = 32
LEAST_ROWS = 8
LEARN_FROM_ROWS = 8


class Pacer:
    """A running estimate of seconds per prompt row."""

    def __init__(self, step_tokens: int) -> None:
        self._most = step_tokens
        self._row_s: float | None = None

    def prompt_rows(self, *, mixed: bool) -> int:
        """At most this many prompt rows in the next step. mixed: somebody decodes."""
        if self._row_s is None:
            return min(FIRST_ROWS, self._most)
        rows = int((MIXED_S if mixed else ALONE_S) / self._row_s)
        return max(LEAST_ROWS, min(rows, self._most))

    def learn(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows took `seconds`."""
        if rows < LEARN_FROM_ROWS:
            return
        row_s = seconds / rows
        self._row_s = row_s if self._row_s is None else 0.7 * self._row_s + 0.3 * row_s
