"""The rows of a step, sampled together and on several cores.

numpy gives up the GIL in the long operations (maxima, exponentials, sorting), and the engine's own
threads have nothing to do until the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from okno.core.errors import OknoError
from okno.engines.draws import Mask, choose
from okno.engines.race import Logits
from okno.engines.sampling import SampledToken, Sampler

SHARE = 500_000  # logits: handing fewer to another thread costs more than it saves


class Ask(NamedTuple):
    """One token to choose. at: its row of the logits. mask: computed beside the others' work.
    ahead: see Sampler.row."""

    at: int
    sampler: Sampler
    mask: Callable[[], Mask] | None = None
    ahead: int = 0


Answer = SampledToken | OknoError


def sample_all(logits: Logits, asks: Sequence[Ask]) -> list[Answer]:
    """A token for each, or the reason why this one, and only this one, has none. logits:
    (n, n_vocab), writable, as before when this returns. asks: in the order of `at`."""
    answers: dict[int, Answer] = {}
    rows = []
    for ask in asks:
        try:
            mask = None if ask.mask is None else ask.mask()
        except OknoError as error:
            answers[ask.at] = error
        else:
            rows.append(ask.sampler.row(logits[ask.at], ask.at, mask, ask.ahead))
    chosen = {row.at: token for row, token in zip(rows, choose(logits, rows), strict=True)}
    for at, sampler, *_ in asks:
        if at in chosen:
            token = chosen[at]
            answers[at] = sampler.sampled(logits[at], token) if isinstance(token, int) else token
    return [answers[ask.at] for ask in asks]


class BatchSampler:
    """`sample_all` on `threads` threads, where there is enough to do."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="sample")

    def sample(self, logits: Logits, asks: Sequence[Ask]) -> list[Answer]:
        """As sample_all."""
        parts = min(self._threads, len(asks), logits.size // SHARE)
        if parts <= 1:
            return sample_all(logits, asks)
        cuts = [len(asks) * part // parts for part in range(parts + 1)]
        shares = [asks[begin:end] for begin, end in pairwise(cuts)]
        others = [self._pool.submit(_share, logits, share) for share in shares[1:]]
        answers = _share(logits, shares[0])
        for other in others:
            answers += other.result()
        return answers


def _share(logits: Logits, asks: Sequence[Ask]) -> list[Answer]:
    """Of consecutive rows."""
    first = asks[0].at
    mine = logits[first : asks[-1].at + 1]
    return sample_all(mine, [ask._replace(at=ask.at - first) for ask in asks])
