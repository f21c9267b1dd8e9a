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
_NARROW, _NARROW_IN_ALL = 16, 128  # blocks of a race, of all: so few are opened without bounds
_SMALL = 4096  # tokens: a single race among them is run as it is
_FIRST_BLOCKS = 4  # of wider races, looked into before it is known which may hold the winner
_NEAR_NATS = 2.0  # below the best of these blocks, times the temperature: so much is looked at
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
    block_maxima. at: both are this row of the table that `winners` is told of; -1: of none."""

    logits: Logits
    maxima: Logits
    key: int
    temperature: float
    floor: Floor = ALL
    at: int = -1


class Table(NamedTuple):
    """What races have in common, to be read at once. logits: (n, n_vocab), contiguous; maxima:
    their block_maxima."""

    logits: Logits
    maxima: Logits


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
    """(..., n_blocks): the highest logit of each block of (..., n_vocab), NaN if it holds one."""
    n_vocab = logits.shape[-1]
    n_blocks = n_blocks_of(n_vocab)
    whole = n_vocab - n_vocab % n_blocks
    blocks = logits[..., :whole].reshape(*logits.shape[:-1], -1, n_blocks)
    maxima: Logits = np.maximum.reduce(blocks, axis=-2)
    if whole < n_vocab:
        some = maxima[..., : n_vocab - whole]
        np.maximum(some, logits[..., whole:], out=some)
    return maxima


def winners(races: Sequence[Race], table: Table | None = None) -> list[int]:
    """The token that arrives first in each race; all have the same n_vocab."""
    if len(races) == 1 and len(races[0].logits) <= _SMALL:
        return [_small_winner(races[0])]
    narrow = _narrow_fields(races)
    wide = [i for i in range(len(races)) if i not in narrow]
    tokens = dict.fromkeys(range(len(races)), 0)
    if narrow:
        found = _narrow_winners([races[i] for i in narrow], list(narrow.values()))
        tokens.update(zip(narrow, found, strict=True))
    size = max(1, _GROUP // len(races[0].maxima)) if races else 1
    for begin in range(0, len(wide), size):
        group = wide[begin : begin + size]
        tokens.update(zip(group, _wide_winners([races[i] for i in group], table), strict=True))
    return list(tokens.values())


def _narrow_fields(races: Sequence[Race]) -> dict[int, Ids]:
    """The races in which few blocks reach the floor, and these blocks."""
    most = max(_NARROW, _NARROW_IN_ALL // max(1, len(races)))
    narrow = {}
    for i, race in enumerate(races):
        if race.floor is not ALL or len(race.maxima) <= most:
            reaching = np.flatnonzero(race.maxima >= race.floor.value)
            if len(reaching) <= most:
                narrow[i] = reaching
    return narrow


def _small_winner(race: Race) -> int:
    """The whole field is raced: with few tokens the fewest calls are the fastest."""
    n_blocks, n_vocab = len(race.maxima), len(race.logits)
    key = np.uint64(race.key)
    blocks = np.arange(n_blocks)
    least, holders = _least_exponentials(key, blocks)
    times = _exponential(_mixed(_token_states(n_blocks * BLOCK) + key)).reshape(BLOCK, n_blocks)
    times[holders, blocks] = 0.0
    times += least
    with np.errstate(over="ignore"):
        slowness = (race.maxima.max() - race.logits) / np.float64(max(race.temperature, COLDEST))
        arrivals = times.ravel()[:n_vocab] * np.exp(slowness)
    if race.floor is not ALL:
        arrivals[~race.floor.leaves(race.logits)] = np.inf
    return int(arrivals.argmin())


def _narrow_winners(races: Sequence[Race], blocks: Sequence[Ids]) -> list[int]:
    """Everything above the floors, which lies in these blocks of each race, is raced."""
    field = _Field(races)
    rows = np.repeat(np.arange(len(races)), [len(some) for some in blocks])
    return field.first(field.open(rows, np.concatenate(blocks), field.floors[rows]))


def _wide_winners(races: Sequence[Race], table: Table | None) -> list[int]:
    """Some of the blocks that are bounded lowest say by when somebody has arrived; then what may
    be as early is raced."""
    field = _Field(races, table)
    bounds, leasts = field.bounds()
    limits = field.limits(bounds)
    possible = np.flatnonzero(bounds <= limits[:, None].astype(np.float32))
    rows, blocks = np.divmod(possible, bounds.shape[1])
    thresholds = field.thresholds(rows, limits, leasts.ravel()[possible])
    return field.first(field.open(rows, blocks, thresholds))


class _Arrivals(NamedTuple):
    """Tokens that were raced: whose race, which token, when it arrives."""

    rows: Ids
    ids: Ids
    times: Floats


class _Field:
    """Races as arrays, one row each."""

    def __init__(self, races: Sequence[Race], table: Table | None = None) -> None:
        self._races = races
        self._n_vocab = len(races[0].logits)
        self._n_blocks = len(races[0].maxima)
        self._keys = np.array([race.key for race in races], dtype=np.uint64)
        at = np.array([race.at for race in races], dtype=np.intp)
        if table is None or at.min() < 0:
            self._table = None
            self._maxima = np.array([race.maxima for race in races])
        else:
            self._table = table.logits.reshape(-1)
            self._starts = at * self._n_vocab
            self._maxima = table.maxima.take(at, axis=0)
        self._best = self._maxima.max(axis=1)
        self._temperatures = np.array([max(race.temperature, COLDEST) for race in races])
        self.floors = np.array([race.floor.value for race in races], dtype=np.float32)
        self._last = np.array([race.floor.last for race in races])
        whole = self._n_blocks * BLOCK == self._n_vocab and self._last.min() == ALL.last
        self._is_whole = bool(whole)

    def bounds(self) -> tuple[Logits, Logits]:
        """(races, blocks): no token of the block arrives before this / BLOCK; and the same for a
        weight of 1."""
        maxima = self._maxima
        leasts = _least_bounds(self._keys[:, None], self._n_blocks)
        with np.errstate(over="ignore"):
            slowness: Logits = self._best[:, None] - maxima
            slowness /= self._temperatures[:, None].astype(np.float32)
            np.exp(slowness, out=slowness)
        if self.floors.max() > -np.inf:
            slowness[maxima < self.floors[:, None]] = np.inf
        slowness *= leasts
        return slowness, leasts

    def limits(self, bounds: Logits) -> Floats:
        """(races,): BLOCK times a moment by which some token has arrived. That is looked up among
        the best tokens of a few blocks: of each stretch of blocks the one bounded lowest."""
        count, stretch = len(self._races), self._n_blocks // _FIRST_BLOCKS
        some = bounds[:, : stretch * _FIRST_BLOCKS].reshape(count, _FIRST_BLOCKS, stretch)
        blocks = (some.argmin(axis=2) + np.arange(_FIRST_BLOCKS) * stretch).ravel()
        rows = np.repeat(np.arange(count), _FIRST_BLOCKS)
        near: Logits = self._maxima[rows, blocks] - _NEAR_NATS * self._temperatures[rows]
        near = np.maximum(near.astype(np.float32), self.floors[rows])
        return self.earliest(self.open(rows, blocks, near)) * (BLOCK * _ROUNDED_UP)

    def thresholds(self, rows: Ids, limits: Floats, leasts: Logits) -> Logits:
        """Only logits from here on can arrive before limits[rows] / BLOCK in blocks whose least
        bounds these are."""
        nats = np.log(limits[rows] / leasts) * self._temperatures[rows]
        least: Logits = (self._best[rows] - nats).astype(np.float32)
        least = np.nextafter(least, np.float32(-np.inf))
        np.maximum(least, self.floors[rows], out=least)
        return least

    def open(self, rows: Ids, blocks: Ids, thresholds: Logits) -> _Arrivals:
        """Race the tokens of these blocks with logits from the thresholds on. rows: ascending."""
        ids = blocks[:, None] + self._n_blocks * _PLACES
        logits = self._gathered(rows, ids)
        left = logits >= thresholds[:, None]
        if not self._is_whole:
            left &= (logits > self.floors[rows][:, None]) | (ids <= self._last[rows][:, None])
            left &= ids < self._n_vocab
        at, places = np.divmod(np.flatnonzero(left), BLOCK)
        least, holders = _least_exponentials(self._keys[rows], blocks)
        rows, ids, logits = rows[at], ids[at, places], logits[at, places]
        times = _exponentials(self._keys[rows], ids)
        times[holders[at] == places] = 0.0
        times += least[at]
        with np.errstate(over="ignore"):
            times *= np.exp((self._best[rows] - logits) / self._temperatures[rows])
        return _Arrivals(rows, ids, times)

    def earliest(self, arrivals: _Arrivals) -> Floats:
        """The earliest time in each race."""
        times = np.full(len(self._races), np.inf)
        np.minimum.at(times, arrivals.rows, arrivals.times)
        return times

    def first(self, arrivals: _Arrivals) -> list[int]:
        """The earliest token of each race."""
        hits = arrivals.times == self.earliest(arrivals)[arrivals.rows]
        tokens = np.empty(len(self._races), dtype=np.intp)
        tokens[arrivals.rows[hits]] = arrivals.ids[hits]
        found: list[int] = tokens.tolist()
        return found

    def _gathered(self, rows: Ids, ids: Ids) -> Logits:
        """The logits of ids[i] in race rows[i]; of ids that do not exist: anything."""
        if self._table is not None:
            return self._table.take(ids + self._starts[rows][:, None], mode="clip")
        if len(self._races) == 1:
            return self._races[0].logits.take(ids, mode="clip")
        found = np.empty(ids.shape, dtype=np.float32)
        ends = np.searchsorted(rows, np.arange(len(self._races) + 1)).tolist()
        for race, begin, end in zip(self._races, ends, ends[1:], strict=False):
            if begin < end:
                race.logits.take(ids[begin:end], out=found[begin:end], mode="clip")
        return found


def _least_exponentials(keys: Keys | np.uint64, blocks: Ids) -> tuple[Floats, Keys]:
    """The least E of each block, and the place of the token that has it."""
    hashes = _mixed(keys - blocks.astype(np.uint64) * np.uint64(_GOLDEN))
    return _exponential(hashes) / BLOCK, hashes & np.uint64(BLOCK - 1)


def _exponentials(keys: Keys, ids: Ids) -> Floats:
    """By how much E of each token exceeds the least of its block, if another one has that."""
    names = (ids + 1).astype(np.uint64)
    names *= np.uint64(_GOLDEN)
    names += keys
    return _exponential(_mixed(names))


def _least_bounds(keys: Keys, n_blocks: int) -> Logits:
    """(len(keys), n_blocks): at most BLOCK times the least E of each block, above 0: 1 - u with
    24 bits, which is below -log(u)."""
    hashes = _mixed(keys - _block_states(n_blocks))
    np.invert(hashes, out=hashes)
    hashes >>= np.uint64(40)
    bounds: Logits = hashes.astype(np.int32).astype(np.float32)
    bounds *= np.float32(2.0**-24)
    bounds += np.float32(2.0**-54)
    return bounds


@lru_cache(maxsize=8)
def _token_states(count: int) -> Keys:
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)


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


def _exponential(hashes: Keys) -> Floats:
    """Of rate 1, from a number in (0, 1), both ends excluded; the low 12 bits are not used."""
    numbers = (hashes >> np.uint64(12)).astype(np.float64)
    numbers += 0.5
    numbers *= 2.0**-52
    np.log(numbers, out=numbers)
    return np.negative(numbers, out=numbers)
