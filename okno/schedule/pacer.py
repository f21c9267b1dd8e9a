"""How many prompt rows a step may take, so that nobody waits long for the next token.

The cost of a prompt row is learnt from the steps themselves. While somebody decodes, the prompt
pieces of a step get MIXED_S seconds (the gap between tokens that a long prompt costs its
neighbours); otherwise ALONE_S, short enough that a client who leaves frees its sequence within
two seconds.

Pieces are multiples of TILE_ROWS where that takes at most LONGEST_S: from 64 rows on llama.cpp's
CPU flash attention works in tiles. Below, a row at depth 640 costs up to three times as much
(1 B Q4_0, 2 cores: 10.3 s for a prompt of 640 tokens in pieces of 20 to 45, 5.5 s in pieces of 64).
"""

from __future__ import annotations

MIXED_S = 0.2
ALONE_S = 0.5
LONGEST_S = 1.0
TILE_ROWS = 64
LEAST_ROWS = 8
LEARN_FROM_ROWS = 8


def piece_rows(row_s: float, most: int, *, mixed: bool) -> int:
    """Prompt rows of a step when a row costs row_s seconds, at most `most`. mixed: somebody
    decodes."""
    rows = int((MIXED_S if mixed else ALONE_S) / row_s)
    if rows >= TILE_ROWS:
        rows -= rows % TILE_ROWS
    elif TILE_ROWS * row_s <= LONGEST_S:
        rows = TILE_ROWS
    return min(max(LEAST_ROWS, rows), most)


class Pacer:
    """A running estimate of seconds per prompt row."""

    def __init__(self, step_tokens: int) -> None:
        self._most = step_tokens
        self._row_s: float | None = None

    def prompt_rows(self, *, mixed: bool) -> int:
        """At most this many prompt rows in the next step. mixed: somebody decodes."""
        if self._row_s is None:
            return min(TILE_ROWS, self._most)
        return piece_rows(self._row_s, self._most, mixed=mixed)

    def learn(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows took `seconds`."""
        if rows < LEARN_FROM_ROWS:
            return
        row_s = seconds / rows
        self._row_s = row_s if self._row_s is None else 0.7 * self._row_s + 0.3 * row_s
