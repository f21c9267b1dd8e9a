"""Choosing a token for each of many rows of logits, at once.

Greedy rows take their best. The others are raced together (race.py), each above the floor that
its truncations leave (truncation.py). Entries that bias, penalties or bans change are written into
the row for that time and put back: a row of 128,000 logits is not copied for the sake of a few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from okno.core.errors import EngineFailed
from okno.core.request import Sampling
from okno.engines.race import ALL, COLDEST, Ids, Logits, Race, Table, block_maxima, winners
from okno.engines.truncation import floor_of, truncates, typical_row

Mask = NDArray[np.bool_]


class NoTokenAllowed(EngineFailed):
    """Mask, bans and the model's own -inf together leave no token; the sequence cannot go on."""


class Row(NamedTuple):
    """One token to choose. at: its row of the logits. key: the draw's random bits. ids: entries
    that are to be `values` instead, before `mask` (n_vocab,) leaves only the allowed ones."""

    at: int
    sampling: Sampling
    key: int
    ids: Ids
    values: Logits
    mask: Mask | None = None


def choose(logits: Logits, rows: Sequence[Row]) -> list[int | EngineFailed]:
    """The token of each row, or why there is none: NoTokenAllowed, or EngineFailed if its logits
    hold NaN or +inf. logits: (n, n_vocab), writable, as before when this returns. rows: in the
    order of `at`, each at most once."""
    if not rows:
        return []
    with _edited(logits, rows):
        if len(rows) == len(logits) and all(row.mask is None for row in rows):
            tokens, best = _chosen_of_all(logits, rows)
        else:
            tokens, best = _chosen(logits, rows)
    if np.isfinite(best).all():
        return [*tokens]
    return [
        token if math.isfinite(value) else _failure(logits[row.at], value)
        for row, token, value in zip(rows, tokens, best, strict=True)
    ]


def _chosen_of_all(logits: Logits, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """The token of each row and its highest logit, of a whole table of rows without masks: all
    greedy ones or all drawn ones are read at once."""
    drawn = [row.sampling.temperature > 0 for row in rows]
    if not any(drawn):
        greedy = logits.argmax(axis=1)
        return greedy.tolist(), logits[np.arange(len(rows)), greedy].tolist()
    if not all(drawn):
        return _chosen(logits, rows)
    maxima = block_maxima(logits)
    best = maxima.max(axis=1).tolist()
    own = list(zip(logits, maxima, rows, strict=True))
    races = {
        at: race_of(x, highest, row)
        for at, (x, highest, row) in enumerate(own)
        if math.isfinite(best[at])
    }
    tokens = dict.fromkeys(range(len(rows)), 0)
    tokens.update(zip(races, winners(list(races.values()), Table(logits, maxima)), strict=True))
    return list(tokens.values()), best


def _chosen(logits: Logits, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """The token of each row and its highest logit, each row read alone."""
    tokens, best = [0] * len(rows), [0.0] * len(rows)
    races = {}
    for i, row in enumerate(rows):
        own = _masked(logits[row.at], row.mask)
        if row.sampling.temperature > 0:
            maxima = block_maxima(own)
            best[i] = float(maxima.max())
            if math.isfinite(best[i]):
                races[i] = race_of(own, maxima, row)
        else:
            tokens[i] = int(own.argmax())
            best[i] = float(own[tokens[i]])
    for i, token in zip(races, winners(list(races.values())), strict=True):
        tokens[i] = token
    return tokens, best


def race_of(logits: Logits, maxima: Logits, row: Row) -> Race:
    """The draw of a row with a finite best. logits, maxima: as edits and mask leave them."""
    s, at = row.sampling, row.at
    if not truncates(s, len(logits)):
        return Race(logits, maxima, row.key, s.temperature, ALL, at)
    if s.typical_p < 1:
        logits = typical_row(logits, s)
        maxima = block_maxima(logits)
        s, at = replace(s, top_k=0, typical_p=1.0), -1
    return Race(logits, maxima, row.key, s.temperature, floor_of(logits, maxima, s), at)


def distribution(logits: Logits, row: Row) -> tuple[Ids, NDArray[np.float64]]:
    """The tokens that can be drawn, in the order of their ids, and their probabilities. logits:
    (1, n_vocab). Raises what `choose` gives for a row without a token."""
    with _edited(logits, [row]):
        own = _masked(logits[row.at], row.mask)
        maxima = block_maxima(own)
        best = float(maxima.max())
        if math.isfinite(best):
            race = race_of(own, maxima, row)
            ids = np.flatnonzero(race.floor.leaves(race.logits))
            x = race.logits[ids].astype(np.float64) - float(race.maxima.max())
            weights = np.exp(x / max(row.sampling.temperature, COLDEST))
            return ids[weights > 0], weights[weights > 0] / weights.sum()
    raise _failure(logits[row.at], best)


@contextmanager
def _edited(logits: Logits, rows: Sequence[Row]) -> Iterator[None]:
    changed = [row for row in rows if len(row.ids)]
    before = [logits[row.at, row.ids] for row in changed]
    try:
        for row in changed:
            logits[row.at, row.ids] = row.values
        yield
    finally:
        for row, values in zip(changed, before, strict=True):
            logits[row.at, row.ids] = values


def _masked(logits: Logits, mask: Mask | None) -> Logits:
    return logits if mask is None else np.where(mask, logits, np.float32(-np.inf))


def _failure(logits: Logits, best: float) -> EngineFailed:
    if best == -math.inf and not np.isnan(logits).any() and logits.max() < math.inf:
        return NoTokenAllowed(
            "No token is allowed here: the constraint, the banned tokens and the model leave none."
        )
    return EngineFailed("The model produced NaN or infinite logits; its file may be damaged.")
