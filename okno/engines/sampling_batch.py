"""The rows of a step, sampled together, each for its own sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from okno.core.errors import OknoError
from okno.engines.draws import Mask, choose
from okno.engines.race import Logits
from okno.engines.sampling import SampledToken, Sampler


class Ask(NamedTuple):
    """One token to choose. at: its row of the logits. mask: asked for when its row is. ahead: see
    Sampler.row."""

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
