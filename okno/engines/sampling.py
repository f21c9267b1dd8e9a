"""Choosing the next token of one sequence.

Order, as llama.cpp's default chain: mask and banned tokens, logit bias, repetition, frequency and
presence penalties, top_k, typical_p, top_p, min_p, temperature, draw. Each truncation sees the
distribution renormalised over what the one before it left.

Here is what a sequence remembers; draws.py chooses, for one row as for many.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from okno.core.errors import BadRequest, EngineFailed
from okno.core.events import TokenLogprob
from okno.core.request import Sampling
from okno.engines.draws import Mask, NoTokenAllowed, Row, choose, distribution
from okno.engines.race import Ids, Logits, block_maxima, key_of, stream_of
from okno.engines.truncation import highest

__all__ = ["Mask", "NoTokenAllowed", "SampledToken", "Sampler"]

_LARGEST = 3e38  # of float32, rounded down

Floats = NDArray[np.float64]


class SampledToken(NamedTuple):
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
        self._stream = stream_of(seed)
        self._piece_of = piece_of
        self._banned = np.array(sorted(banned), dtype=np.intp)
        self._banned_values = np.full(len(self._banned), -np.inf, dtype=np.float32)
        self._bias_ids = np.array(list(sampling.logit_bias), dtype=np.intp)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float64)
        self._recent = _Recent(sampling, prompt)
        self._counts = _TokenBag()
        self._counting = sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
        self._only_bans = not (sampling.logit_bias or self._counting or self._recent.looks_back)
        self._looks_back = self._counting or self._recent.looks_back
        self.generated = 0

    @property
    def looks_back(self) -> bool:
        """What it chooses depends on the tokens accepted before, not only on their number."""
        return self._looks_back

    def accept(self, token: int) -> None:
        """Record a generated (or replayed) token."""
        self.generated += 1
        if self._looks_back:
            self._recent.add(token)
            if self._counting:
                self._counts.add(token)

    def sample(self, logits: Logits, mask: Mask | None = None) -> SampledToken:
        """Choose the next token. logits: (n_vocab,), writable, as before afterwards; mask:
        (n_vocab,), True is allowed. temperature 0 takes the best token, of equals the lowest id.

        Raises NoTokenAllowed, and EngineFailed if the logits hold NaN or +inf.
        """
        [token] = choose(logits[None], [self.row(logits[None], 0, mask)])
        if isinstance(token, EngineFailed):
            raise token
        return self.sampled(logits[None], 0, token)

    def row(self, logits: Logits, at: int, mask: Mask | None = None, ahead: int = 0) -> Row:
        """What `choose` needs for the next token, or (if not `looks_back`) for the one `ahead`
        tokens later. logits: (n, n_vocab), of the step; its row is `at`."""
        if logits.shape[1:] != (self._n_vocab,):
            raise ValueError(f"rows of shape {logits.shape[1:]}, expected ({self._n_vocab},)")
        key = key_of(self._stream, self.generated + ahead) if self._s.temperature > 0 else 0
        if self._only_bans:
            return Row(at, self._s, key, self._banned, self._banned_values, mask)
        return Row(at, self._s, key, *self._edits(logits[at]), mask)

    def sampled(self, logits: Logits, at: int, token: int) -> SampledToken:
        """A chosen token with what was asked to be known about it. logits, at: as for `row`."""
        if self._s.logprobs is None:
            return SampledToken(token)
        return SampledToken(token, self._logprobs(logits[at], token, self._s.logprobs))

    def distribution(self, logits: Logits, mask: Mask | None = None) -> tuple[Ids, Floats]:
        """The tokens that can be drawn, in the order of their ids, and their probabilities.
        temperature must be above 0."""
        return distribution(logits[None], self.row(logits[None], 0, mask))

    def _edits(self, logits: Logits) -> tuple[Ids, Logits]:
        """The entries that bans, bias and penalties change, and what they become."""
        repeated, counted = self._recent.ids, self._counts.ids
        ids = np.unique(np.concatenate([self._banned, self._bias_ids, repeated, counted]))
        x = logits[ids].astype(np.float64)
        x[np.searchsorted(ids, self._bias_ids)] += self._bias
        _penalise_repetition(x, np.searchsorted(ids, repeated), self._s.repetition_penalty)
        x[np.searchsorted(ids, counted)] -= (
            self._counts.counts * self._s.frequency_penalty + self._s.presence_penalty
        )
        x[np.searchsorted(ids, self._banned)] = -np.inf
        return ids, x.astype(np.float32)

    def _logprobs(self, logits: Logits, token: int, n_top: int) -> TokenLogprob:
        best = logits.max()
        total = float(best) + math.log(np.exp(logits - best).sum(dtype=np.float64))

        def entry(i: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
            return TokenLogprob(i, self._piece_of(i), float(logits[i]) - total, top)

        order = _best_ids(logits, n_top) if n_top else []
        return entry(token, tuple(entry(i) for i in order))


def _best_ids(logits: Logits, count: int) -> list[int]:
    """The most probable tokens, best first, of equals the lower id; impossible ones left out."""
    values = highest(logits, block_maxima(logits), count)
    least = values[min(count, len(values)) - 1]
    ids = np.flatnonzero(logits >= least) if least > -np.inf else np.flatnonzero(logits > least)
    order: list[int] = ids[np.argsort(-logits[ids], kind="stable")].tolist()
    return order[:count]


def _check_bias(sampling: Sampling, n_vocab: int) -> None:
    for token in sampling.logit_bias:
        if not 0 <= token < n_vocab:
            raise BadRequest(
                f"`logit_bias` names token {token}; this model's ids are 0 to {n_vocab - 1}.",
                param="logit_bias",
            )


def _penalise_repetition(x: Floats, at: Ids, penalty: float) -> None:
    """llama.cpp (llama_sampler_penalties): divide positive logits, multiply the others."""
    if len(at):
        values = x[at]
        with np.errstate(over="ignore"):  # a penalty near 0
            x[at] = np.where(values > 0, np.minimum(values / penalty, _LARGEST), values * penalty)


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

    @property
    def looks_back(self) -> bool:
        return self._limit != 0

    def add(self, token: int) -> None:
        if not self._limit:
            return
        self._bag.add(token)
        if self._limit > 0:
            self._order.append(token)
            if len(self._order) > self._limit:
                self._bag.remove(self._order.popleft())
