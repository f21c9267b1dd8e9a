"""Losses and divergences from rows of logits, in bounded memory.

Log-sum-exp around the row's maximum; sums in float64. Rows are worked on in blocks, so that the
temporaries stay below a few MiB whatever the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]  # (rows, vocabulary)
Floats = NDArray[np.float64]
Ids = NDArray[np.int32]
BLOCK_VALUES = 1 << 19


def log_normalisers(logits: Logits) -> Floats:
    """log(sum(exp(row))) of each row."""
    found = np.empty(len(logits))
    for rows in _blocks(logits):
        part = logits[rows]
        best = part.max(axis=1, keepdims=True)
        sums = np.exp(part - best).sum(axis=1, dtype=np.float64)
        found[rows] = best[:, 0] + np.log(sums)
    return found


def losses(logits: Logits, targets: Ids) -> Floats:
    """-log p(target) of each row, in nats."""
    chosen = logits[np.arange(len(logits)), targets].astype(np.float64)
    return log_normalisers(logits) - chosen


def divergences(reference: Logits, other: Logits) -> Floats:
    """KL(reference || other) of each row, in nats, never below 0."""
    of_reference, of_other = log_normalisers(reference), log_normalisers(other)
    found = np.empty(len(reference))
    for rows in _blocks(reference):
        log_p = reference[rows] - of_reference[rows, None]
        log_q = other[rows] - of_other[rows, None]
        p = np.exp(log_p)
        found[rows] = np.where(p > 0, p * (log_p - log_q), 0.0).sum(axis=1)
    return np.maximum(found, 0.0)


def agreement(reference: Logits, other: Logits) -> NDArray[np.uint8]:
    """1 where both have the same most probable token."""
    same: NDArray[np.bool_] = reference.argmax(axis=1) == other.argmax(axis=1)
    return same.astype(np.uint8)


def _blocks(logits: Logits) -> Iterator[slice]:
    size = max(1, BLOCK_VALUES // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, min(start + size, len(logits)))
