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
    for at, sampler, mask_of, ahead in asks:
        if mask_of is None:
            rows.append(sampler.row(logits, at, None, ahead))
            continue
        try:
            mask = mask_of()
        except OknoError as error:
            failed[at] = error
        else:
            rows.append(sampler.row(logits, at, mask, ahead))
    chosen: Sequence[int | OknoError] = choose(logits, rows)
    if failed:
        found = dict(zip([row.at for row in rows], chosen, strict=True)) | failed
        chosen = [found[ask.at] for ask in asks]
    return [
        ask.sampler.sampled(logits, ask.at, token) if isinstance(token, int) else token
        for ask, token in zip(asks, chosen, strict=True)
    ]
