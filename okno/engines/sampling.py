"""Choosing the next token of one sequence.

Order, as llama.cpp's default chain: mask and banned tokens, logit bias, repetition, frequency and
presence penalties, top_k, typical_p, top_p, min_p, temperature, draw. Each truncation sees the
distribution renormalised over what the one before it left.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from okno.core.errors import BadRequest, EngineFailed
from okno.core.events import TokenLogprob
from okno.core.request import Sampling

CANDIDATE_NATS = 30.0
_LARGEST = 1e300
_SORTABLE = 1024
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Floats = NDArray[np.float64]
Ids = NDArray[np.intp]
Logits = NDArray[np.float32]
Values = NDArray[np.float32] | NDArray[np.float64]
Mask = NDArray[np.bool_]


class NoTokenAllowed(EngineFailed):
    """Mask, bans and the model's own -inf together leave no token; the sequence cannot go on."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The chosen token; logprobs of the model's own distribution if they were asked for."""

    token: int
    logprobs: TokenLogprob | None = None


def _no_piece(_token: int) -> bytes:
    return b""


class Sampler:
    """Samples one sequence. `sample` changes nothing; `accept` records a generated token.

    The random numbers of the i-th generated token are a function of (seed, i) and the candidate's
    id alone: a replay of accepted tokens continues identically. The draw is a race among the
    candidates (the Gumbel-max trick), in which a small change of the logits, as the rest of the
    batch causes, changes the winner with at most twice the probability that it moved; dividing
    [0, 1) among the candidates would move every border (docs/decisions.md).

    seed: any integer in [-2^63, 2^64); `sampling.seed` itself is not read (None is drawn at the
    edge). prompt: counts for repetition_penalty. banned: never sampled (ignore_eos).
    piece_of: bytes of a token, for logprobs. Raises BadRequest if logit_bias names a token
    outside [0, n_vocab).
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        seed: int,
        n_vocab: int,
        prompt: Sequence[int] = (),
        banned: Collection[int] = (),
        piece_of: Callable[[int], bytes] = _no_piece,
    ) -> None:
        _check_bias(sampling, n_vocab)
        self._s = sampling
        self._n_vocab = n_vocab
        self._seed = seed % 2**128
        self._piece_of = piece_of
        self._banned = np.array(sorted(banned), dtype=np.intp)
        self._bias_ids = np.array(list(sampling.logit_bias), dtype=np.intp)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float64)
        self._recent = _Recent(sampling, prompt)
        self._counts = _TokenBag()
        self._counting = sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
        self.generated = 0

    def accept(self, token: int) -> None:
        """Record a generated (or replayed) token."""
        self.generated += 1
        self._recent.add(token)
        if self._counting:
            self._counts.add(token)

    def sample(self, logits: Logits, mask: Mask | None = None) -> SampledToken:
        """Choose the next token. logits: (n_vocab,), never modified; mask: (n_vocab,), True is
        allowed. temperature 0 takes the best token, of equals the lowest id.

        Raises NoTokenAllowed, and EngineFailed if the logits hold NaN or +inf.
        """
        if logits.shape != (self._n_vocab,):
            raise ValueError(f"logits of shape {logits.shape}, expected ({self._n_vocab},)")
        token = self._greedy(logits, mask) if self._s.temperature == 0 else self._draw(logits, mask)
        if self._s.logprobs is None:
            return SampledToken(token)
        return SampledToken(token, self._logprobs(logits, token, self._s.logprobs))

    def distribution(self, logits: Logits, mask: Mask | None = None) -> tuple[Ids, Floats]:
        """The tokens that can be drawn, in the order of their ids, and their probabilities.

        Tokens more than 30 * max(1, temperature) nats below the best may be left out first: all
        together they hold at most n_vocab * e^-30 of the mass, 1e-8 at 128k tokens. Exponentials
        are taken in float32 where the logits are (2e-6 relative), sums in float64.
        temperature must be above 0.
        """
        ids, weights = self._weights(logits, mask)
        kept = np.flatnonzero(weights)
        probabilities = weights[kept].astype(np.float64)
        return kept if ids is None else ids[kept], probabilities / probabilities.sum()

    def _weights(self, logits: Logits, mask: Mask | None) -> tuple[Ids | None, Values]:
        """Candidate ids (None: all, in order) and their unnormalised probabilities."""
        adjusted = self._adjusted(logits, mask)
        best = _checked_best(logits, adjusted.max())
        ids = _candidates(adjusted, best, self._s)
        x = (adjusted if ids is None else adjusted[ids]) - adjusted.dtype.type(best)
        kept = _truncate(x, self._s)
        if kept is not None:
            ids, x = kept if ids is None else ids[kept], x[kept]
        with np.errstate(over="ignore"):
            return ids, np.exp((x - x.max()) / x.dtype.type(max(self._s.temperature, 1e-30)))

    def _greedy(self, logits: Logits, mask: Mask | None) -> int:
        adjusted = self._adjusted(logits, mask)
        token = int(adjusted.argmax())
        _checked_best(logits, adjusted[token])
        return token

    def _draw(self, logits: Logits, mask: Mask | None) -> int:
        ids, weights = self._weights(logits, mask)
        at = _first_arrival(weights, ids, self._key())
        return at if ids is None else int(ids[at])

    def _key(self) -> np.uint64:
        """64 bits, a pure function of (seed, number of generated tokens)."""
        return np.uint64(np.random.Philox(key=self._seed, counter=self.generated).random_raw())

    def _adjusted(self, logits: Logits, mask: Mask | None) -> Values:
        """Logits after mask, bans, bias and penalties: a copy, or `logits` if nothing applies."""
        repeated, counted = self._recent.ids, self._counts.ids
        unchanged = not (len(self._banned) or len(self._bias) or len(repeated) or len(counted))
        if unchanged:
            return logits if mask is None else np.where(mask, logits, np.float32(-np.inf))
        x = logits.astype(np.float64)
        x[self._bias_ids] += self._bias
        _penalise_repetition(x, repeated, self._s.repetition_penalty)
        x[counted] -= self._counts.counts * self._s.frequency_penalty + self._s.presence_penalty
        if mask is not None:
            x[~mask] = -np.inf
        x[self._banned] = -np.inf
        return x

    def _logprobs(self, logits: Logits, token: int, n_top: int) -> TokenLogprob:
        best = logits.max()
        total = float(best) + math.log(np.exp(logits - best).sum(dtype=np.float64))

        def entry(i: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
            return TokenLogprob(i, self._piece_of(i), float(logits[i]) - total, top)

        order = sorted(_top_k(logits, n_top), key=lambda i: (-logits[i], i)) if n_top else []
        return entry(token, tuple(entry(int(i)) for i in order if logits[i] != -np.inf))


def _check_bias(sampling: Sampling, n_vocab: int) -> None:
    for token in sampling.logit_bias:
        if not 0 <= token < n_vocab:
            raise BadRequest(
                f"`logit_bias` names token {token}; this model's ids are 0 to {n_vocab - 1}.",
                param="logit_bias",
            )


def _checked_best(logits: Logits, best: np.floating) -> float:
    """`best` as a float, or the error it stands for (numpy's max is NaN if any value is)."""
    if best == -np.inf and not np.isnan(logits).any() and logits.max() < np.inf:
        raise NoTokenAllowed(
            "No token is allowed here: the constraint, the banned tokens and the model leave none."
        )
    if not np.isfinite(best):
        raise EngineFailed("The model produced NaN or infinite logits; its file may be damaged.")
    return float(best)


def _penalise_repetition(x: Floats, ids: Ids, penalty: float) -> None:
    """llama.cpp (llama_sampler_penalties): divide positive logits, multiply the others."""
    if len(ids):
        values = x[ids]
        with np.errstate(over="ignore"):
            x[ids] = np.where(values > 0, np.minimum(values / penalty, _LARGEST), values * penalty)


def _candidates(x: Values, best: float, s: Sampling) -> Ids | None:
    """Tokens worth looking at, ascending: the top_k, or those near the best. None: all."""
    if 0 < s.top_k < len(x):
        ids = _top_k(x, s.top_k)
        return ids[x[ids] > -np.inf]
    near = x >= best - CANDIDATE_NATS * max(1.0, s.temperature)
    mostly = np.count_nonzero(near) > len(x) // 4
    return None if mostly and x.min() > -np.inf else np.flatnonzero(near)


def _truncate(x: Values, s: Sampling) -> Ids | None:
    """Positions that typical_p, top_p and min_p leave, ascending; None: all of them."""
    kept: Ids | None = None
    if s.typical_p < 1:
        kept = _typical(x, s.typical_p)
    if s.top_p < 1:
        kept = _narrow(kept, x, lambda y: _shortest_run(y, _softmax(y), s.top_p))
    if s.min_p > 0:
        kept = _narrow(kept, x, lambda y: np.flatnonzero(y >= y.max() + math.log(s.min_p)))
    return kept


def _narrow(kept: Ids | None, x: Values, choose: Callable[[Values], Ids]) -> Ids:
    return choose(x) if kept is None else kept[choose(x[kept])]


def _softmax(x: Values) -> Values:
    p = np.exp(x - x.max())
    return cast(Values, p / p.dtype.type(p.sum(dtype=np.float64)))


def _typical(x: Values, typical_p: float) -> Ids:
    """Locally typical sampling (Meister et al. 2022): closest to the entropy first."""
    p = _softmax(x).astype(np.float64)
    surprisal = float(x.max()) - math.log(float(p.max())) - x.astype(np.float64)
    return _shortest_run(-np.abs(surprisal - float(p @ surprisal)), p, typical_p)


def _top_k(x: Values, k: int) -> Ids:
    """Ids of the k highest (all, if there are fewer), ascending; of equals the lower id."""
    k = min(k, len(x))
    best = x.max()
    for width in (4.0, 16.0, math.inf):
        near = np.flatnonzero(x >= best - x.dtype.type(width))
        if len(near) >= k:
            break
    values = x[near]
    least = np.partition(values, len(values) - k)[len(values) - k]
    above = near[values > least]
    return np.sort(np.concatenate([above, near[values == least][: k - len(above)]]))


def _shortest_run(score: Values, mass: Values, need: float) -> Ids:
    """Positions, ascending, of the shortest run from the highest score down (of equals the lower
    position first) whose mass reaches `need`; at least one.

    Halves the range of scores until few enough are left to sort: linear time, exact.
    """
    taken: list[Ids] = []
    left = np.arange(len(score))
    low, high = float(score.min()), float(score.max())
    middle = high - 8.0 if high - 8.0 > low else (low + high) / 2
    while len(left) > _SORTABLE and low < middle < high:
        is_upper = score[left] >= middle
        upper = left[is_upper]
        upper_mass = float(mass[upper].sum(dtype=np.float64))
        if upper_mass >= need:
            left, low = upper, middle
        else:
            taken.append(upper)
            left, high, need = left[~is_upper], middle, need - upper_mass
        middle = (low + high) / 2
    left = left[np.argsort(-score[left], kind="stable")]
    reached = int(np.searchsorted(np.cumsum(mass[left], dtype=np.float64), need, side="left"))
    return np.sort(np.concatenate([*taken, left[: reached + 1]]))


def _first_arrival(weights: Values, ids: Ids | None, key: np.uint64) -> int:
    """The position that wins a race in which position i arrives after an exponential time of rate
    weights[i]; it wins with probability weights[i] / sum. The times depend on (key, token id)."""
    names = np.arange(len(weights)) if ids is None else ids
    with np.errstate(divide="ignore"):
        return int(np.argmin(-np.log(_uniform(key, names)) / weights))


def _uniform(key: np.uint64, names: Ids) -> Floats:
    """One number in (0, 1) per name: SplitMix64's finaliser (Steele et al., OOPSLA 2014)."""
    x = (names.astype(np.uint64) + np.uint64(1)) * _GOLDEN + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


class _TokenBag:
    """Tokens with their counts, as arrays that change by O(1) per token."""

    def __init__(self) -> None:
        self._slot: dict[int, int] = {}
        self._ids = np.empty(16, dtype=np.intp)
        self._counts = np.empty(16, dtype=np.float64)

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._slot)]

    @property
    def counts(self) -> Floats:
        return self._counts[: len(self._slot)]

    def add(self, token: int) -> None:
        slot = self._slot.get(token)
        if slot is not None:
            self._counts[slot] += 1
            return
        slot = len(self._slot)
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.empty_like(self._counts)])
        self._slot[token] = slot
        self._ids[slot] = token
        self._counts[slot] = 1

    def remove(self, token: int) -> None:
        slot = self._slot[token]
        self._counts[slot] -= 1
        if self._counts[slot] > 0:
            return
        last = len(self._slot) - 1
        moved = int(self._ids[last])
        self._ids[slot], self._counts[slot] = moved, self._counts[last]
        self._slot[moved] = slot
        del self._slot[token]


class _Recent:
    """The different tokens among the last penalty_last_n of prompt and answer."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        off = sampling.repetition_penalty == 1.0
        self._limit = 0 if off else sampling.penalty_last_n
        self._bag = _TokenBag()
        self._order: deque[int] = deque()
        if self._limit:
            for token in prompt if self._limit < 0 else prompt[-self._limit :]:
                self.add(token)

    @property
    def ids(self) -> Ids:
        return self._bag.ids

    def add(self, token: int) -> None:
        if not self._limit:
            return
        self._bag.add(token)
        if self._limit > 0:
            self._order.append(token)
            if len(self._order) > self._limit:
                self._bag.remove(self._order.popleft())
