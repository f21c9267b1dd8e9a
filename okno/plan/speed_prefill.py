"""How long prompts take: pieces as the pacer cuts them, each a step of the speed model.

The cheap path for grids: a prompt is taken in sections, each at the piece size its middle gets,
and step times between a section's ends are taken as linear in depth, as attention is.
plan/simulate.py runs the real scheduler step by step instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from okno.plan.speed_attention import Part, batch_of
from okno.plan.speed_model import SpeedModel
from okno.schedule.pacer import Target, piece_rows

SECTION_TOKENS = 1024
MOST_SECTIONS = 5
SAMPLED_COUNTS = 5  # of how many already decode, for the time of many prompts at once


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Sequences that decode beside the prompt, each with `depth` tokens; and other prompts that
    are live."""

    count: int = 0
    depth: int = 0
    prompts: int = 0


ALONE = Neighbours()


def prompt_s(
    model: SpeedModel, tokens: int, step_tokens: int, neighbours: Neighbours = ALONE
) -> float:
    """Seconds until the first token of a prompt of `tokens`."""
    total = 0.0
    size = max(SECTION_TOKENS, -(-tokens // MOST_SECTIONS))
    for start in range(0, tokens, size):
        section = min(size, tokens - start)
        total += _section_s(model, start, section, step_tokens, neighbours)
    return total + _output_s(model, neighbours.count)


def row_beside_s(model: SpeedModel, neighbours: Neighbours, depth: int, step_tokens: int) -> float:
    """What a row of a prompt at `depth` adds to the steps of `neighbours`, in pieces that do not
    hold them up: within the default gap, not in the longer steps that the pacer may take."""

    @cache
    def step_s(rows: int) -> float:
        return _piece_s(model, rows, depth, neighbours)

    gap_s, _ = Target().limits_s(step_s(0))
    most = max(1, step_tokens - neighbours.count)
    rows = piece_rows(step_s, most, neighbours.count, Target(gap_s))
    return max(0.0, step_s(rows) - step_s(0)) / rows


def prompts_at_once_s(model: SpeedModel, count: int, tokens: int, step_tokens: int) -> float:
    """Seconds until the last first token, when `count` prompts of `tokens` arrive together. They
    are computed one after the other, and those that are done decode beside the rest."""
    sampled = np.unique(np.linspace(0, count - 1, min(count, SAMPLED_COUNTS)).astype(int))
    each = [
        prompt_s(model, tokens, step_tokens, Neighbours(int(n), tokens, count - 1 - int(n)))
        for n in sampled
    ]
    return float(np.interp(np.arange(count), sampled, each).sum())


def _section_s(
    model: SpeedModel, start: int, tokens: int, step_tokens: int, neighbours: Neighbours
) -> float:
    most = max(1, step_tokens - neighbours.count)
    middle = start + tokens // 2
    rows = piece_rows(
        lambda n: _piece_s(model, n, middle, neighbours), min(most, tokens), neighbours.count,
        prompts=1 + neighbours.prompts,
    )  # fmt: skip
    pieces, rest = divmod(tokens, rows)
    first = _piece_s(model, rows, start, neighbours)
    last = _piece_s(model, rows, start + (pieces - 1) * rows, neighbours) if pieces > 1 else first
    # The rest comes first, at the start of a prompt; or shares its step with another's first rows.
    at_start = rest and not start and not neighbours.count
    remainder = _piece_s(model, rest, start, neighbours) if at_start else last * rest / rows
    return pieces * (first + last) / 2 + remainder


def _piece_s(model: SpeedModel, rows: int, depth: int, neighbours: Neighbours) -> float:
    n = neighbours.count
    parts = [Part(n, 1, neighbours.depth)] if n else []
    if rows:
        parts.append(Part(1, rows, depth))
    return model.batch_s(model.filled(batch_of(parts)), n)


def _output_s(model: SpeedModel, neighbours: int) -> float:
    """The output matrix for the prompt's last row, in the step that ends it."""
    return model.outputs_s(neighbours + 1) - model.outputs_s(neighbours)
