"""The random numbers behind a draw: a race among tokens that is decided without running it.

Token j arrives after E_j / w_j, where w_j is its unnormalised probability and E_j an exponential
random number of rate 1; it is first with probability w_j / sum(w) (the Gumbel-max trick). E_j is a
pure function of (key, j, number of blocks): a draw does not depend on which tokens were looked at.

Tokens are dealt into blocks of BLOCK. The least E of a block is an exponential of rate BLOCK, any
member holds it with equal chance, and the others exceed it by exponentials of rate 1 (together
they are independent exponentials of rate 1, because an exponential has no memory). So one number
per block bounds the arrival of all its members, and only the few blocks that may hold the winner
are opened: a draw from 128,000 tokens looks at 4,000 bounds and some hundred tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
COLDEST = 1e-30  # lower temperatures are as greedy as this one

Floats = NDArray[np.float64]
Ids = NDArray[np.intp]
Keys = NDArray[np.uint64]
Logits = NDArray[np.float32]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1
_PLACES = np.arange(BLOCK)
_FIRST_BLOCKS = 8  # of each race, opened before it is known how many may hold the winner
_GROUP = 65_536  # bounds that are computed at once, so that they stay in a core's cache
_ROUNDED_UP = 1 + 1e-4  # bounds in float32 may be too high, by less than this


class Floor(NamedTuple):
    """The tokens that a truncation leaves: those with logits above `value`, and of those that
    equal it the ids up to `last`."""

    value: float
    last: int

    def leaves(self, logits: Logits) -> NDArray[np.bool_]:
        """Which tokens of a row."""
        left = logits > self.value
        left[: self.last + 1] |= logits[: self.last + 1] == self.value
        return left


ALL = Floor(-np.inf, 2**62)


class Race(NamedTuple):
    """One draw. logits: (n_vocab,), none of them NaN or +inf, at least one finite. maxima: its
    block_maxima."""

    logits: Logits
    maxima: Logits
    key: int
    temperature: float
    floor: Floor = ALL


def stream_of(seed: int) -> int:
    """64 bits for a seed of up to 128 bits; near seeds give unrelated ones."""
    return int(np.random.Philox(key=seed % 2**128).random_raw())


def key_of(stream: int, index: int) -> int:
    """64 bits for the index-th token of a stream: SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = (stream + (index + 1) * _GOLDEN) & _MASK
    x = (x ^ (x >> 30)) * _MIX_1 & _MASK
    x = (x ^ (x >> 27)) * _MIX_2 & _MASK
    return x ^ (x >> 31)


def n_blocks_of(n_vocab: int) -> int:
    """Token j is in block j % n_blocks, at place j // n_blocks."""
    return -(-n_vocab // BLOCK)


def block_maxima(logits: Logits) -> Logits:
    """(..., n_blocks): the highest logit of each block of (..., n_vocab); NaN where it holds one."""
    n_vocab = logits.shape[-1]
    n_blocks = n_blocks_of(n_vocab)
    whole = n_vocab - n_vocab % n_blocks
    blocks = logits[..., :whole].reshape(*logits.shape[:-1], -1, n_blocks)
    maxima = np.maximum.reduce(blocks, axis=-2)
    if whole < n_vocab:
        some = maxima[..., : n_vocab - whole]
        np.maximum(some, logits[..., whole:], out=some)
    return maxima


def winners(races: Sequence[Race]) -> Ids:
    """The token that arrives first in each race; all have the same n_vocab."""
    if not races:
        return np.empty(0, dtype=np.intp)
    size = max(1, _GROUP // len(races[0].maxima))
    groups = [races[begin : begin + size] for begin in range(0, len(races), size)]
    return np.concatenate([_winners(group) for group in groups])


def _winners(races: Sequence[Race]) -> Ids:
    field = _Field(races)
    bounds = field.bounds()
    looks = min(_FIRST_BLOCKS, bounds.shape[1])
    first = np.argpartition(bounds, looks - 1, axis=1)[:, :looks]
    rows = np.repeat(np.arange(len(races)), looks)
    tokens, arrivals = field.open(rows, first.ravel())
    limits = arrivals.reshape(-1, looks).min(axis=1, keepdims=True) * (BLOCK * _ROUNDED_UP)
    possible = bounds <= limits.astype(np.float32)
    np.put_along_axis(possible, first, False, axis=1)
    more_rows, more_blocks = np.nonzero(possible)
    more_tokens, more_arrivals = field.open(more_rows, more_blocks)
    rows = np.concatenate([rows, more_rows])
    order = np.lexsort((np.concatenate([arrivals, more_arrivals]), rows))
    firsts = np.searchsorted(rows[order], np.arange(len(races)))
    return np.concatenate([tokens, more_tokens])[order[firsts]]


class _Field:
    """Races as arrays, one row each."""

    def __init__(self, races: Sequence[Race]) -> None:
        self._logits = [race.logits for race in races]
        self._n_vocab = len(self._logits[0])
        self._keys = np.array([race.key for race in races], dtype=np.uint64)[:, None]
        self._maxima = np.array([race.maxima for race in races])
        self._best = self._maxima.max(axis=1, keepdims=True)
        self._temperature = np.array([[max(race.temperature, COLDEST)] for race in races])
        self._floor = np.array([[race.floor.value] for race in races], dtype=np.float32)
        self._last = np.array([[race.floor.last] for race in races])

    def bounds(self) -> Logits:
        """(races, blocks): no token of the block arrives before this / BLOCK."""
        with np.errstate(over="ignore"):
            slowness = (self._best - self._maxima) / self._temperature.astype(np.float32)
            np.exp(slowness, out=slowness)
        slowness[self._maxima < self._floor] = np.inf
        slowness *= _least_bounds(self._keys, self._maxima.shape[1])
        return slowness

    def open(self, rows: Ids, blocks: Ids) -> tuple[Ids, Floats]:
        """The first token of each of these blocks, and when it arrives. rows: ascending."""
        ids = blocks[:, None] + self._maxima.shape[1] * _PLACES
        logits = self._gathered(rows, ids)
        floor = self._floor[rows]
        left = (logits > floor) | ((logits == floor) & (ids <= self._last[rows]))
        left &= ids < self._n_vocab
        with np.errstate(over="ignore"):
            slowness = np.exp((self._best[rows] - logits) / self._temperature[rows])
            arrivals = _exponentials(self._keys[rows], blocks[:, None], ids) * slowness
        arrivals[~left] = np.inf
        first = arrivals.argmin(axis=1)
        pairs = np.arange(len(rows))
        return ids[pairs, first], arrivals[pairs, first]

    def _gathered(self, rows: Ids, ids: Ids) -> Logits:
        """The logits of ids[i] in race rows[i]; of ids that do not exist: anything."""
        found = np.empty(ids.shape, dtype=np.float32)
        ends = np.searchsorted(rows, np.arange(len(self._logits) + 1)).tolist()
        for logits, begin, end in zip(self._logits, ends, ends[1:], strict=False):
            if begin < end:
                logits.take(ids[begin:end], out=found[begin:end], mode="clip")
        return found


def _exponentials(keys: Keys, blocks: Ids, ids: Ids) -> Floats:
    """E of `ids`, which are whole blocks in the order of their places: (n, BLOCK); keys and
    blocks: (n, 1)."""
    hashes = _mixed(keys - blocks.astype(np.uint64) * np.uint64(_GOLDEN))
    least = -np.log(_uniform(hashes)) / BLOCK
    names = ids.astype(np.uint64) + np.uint64(1)
    more = -np.log(_uniform(_mixed(keys + names * np.uint64(_GOLDEN))))
    holder = (hashes & np.uint64(BLOCK - 1)).astype(np.intp)
    np.put_along_axis(more, holder, 0.0, axis=1)
    more += least
    return more


def _least_bounds(keys: Keys, n_blocks: int) -> Logits:
    """(len(keys), n_blocks): at most BLOCK times the least E of each block, above 0: 1 - u with
    24 bits, which is below -log(u)."""
    hashes = _mixed(keys - _block_states(n_blocks))
    np.invert(hashes, out=hashes)
    hashes >>= np.uint64(40)
    return hashes.astype(np.int32).astype(np.float32) * np.float32(2.0**-24) + np.float32(2.0**-54)


@lru_cache(maxsize=8)
def _block_states(n_blocks: int) -> Keys:
    return np.arange(n_blocks, dtype=np.uint64) * np.uint64(_GOLDEN)


def _mixed(x: Keys) -> Keys:
    """SplitMix64's finaliser; `x` is overwritten."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(_MIX_1)
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= np.uint64(_MIX_2)
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
    return x


def _uniform(hashes: Keys) -> Floats:
    """In (0, 1), both ends excluded; the lower 12 bits of a hash are not used."""
    return ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
