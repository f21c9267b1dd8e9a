"""The rows of a step, sampled together, each for its own sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from okno.core.errors import OknoError
from okno.engines.draws import Mask, Row, choose
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
    rows: list[Row] = []
    failed: dict[int, OknoError] = {}
    for place, (at, sampler, mask_of, ahead) in enumerate(asks):
        try:
            mask = None if mask_of is None else mask_of()
        except OknoError as error:
            failed[place] = error
        else:
            rows.append(sampler.row(logits, at, mask, ahead))
    chosen = iter(choose(logits, rows))
    answers: list[Answer] = []
    for place, ask in enumerate(asks):
        token = failed[place] if place in failed else next(chosen)
        if isinstance(token, int):
            answers.append(ask.sampler.sampled(logits, ask.at, token))
        else:
            answers.append(token)
    return answers
