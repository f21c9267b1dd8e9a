"""Which models of a catalog serve a user best on a machine: the best quantisation of each that
fits, its speed, and an order whose rule can be said in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.plan import PlannedLoad
from okno.plan.goals import USEFUL_CTX, Goal, miss
from okno.plan.memory import MemoryModel
from okno.plan.search import LOAD, SpeedModel, fits, window_of

Speaks = Literal["specialised", "declared", "unknown"]
RULE = (
    "Order: models that meet the limits on time to the first token and tokens/s, before those that "
    "do not; made for the language, before declared, before unknown; then those with a published "
    "value of the named metric, by it; then the others by number of parameters, because no common "
    "measure of their quality is published."
)
SPEAKS: dict[Speaks, int] = {"specialised": 2, "declared": 1, "unknown": 0}


@dataclass(frozen=True, slots=True)
class Published:
    """A published figure of quality. source: where it was found."""

    metric: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could be recommended. n_params: None when not published. quality: the figure
    it is ranked by, None when unknown. speaks: the asked language."""

    name: str
    kind: str
    n_params: int | None
    licence: str | None
    speaks: Speaks = "unknown"
    languages: tuple[str, ...] = ()
    quality: Published | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """A model in one number format. file_bytes: before download. is_published: such a file is
    listed; otherwise its size is computed."""

    quant: str
    header: ModelHeader
    file_bytes: int
    is_published: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A candidate in the best format that fits, in the window it was judged by."""

    candidate: Candidate
    variant: Variant
    planned: PlannedLoad
    meets_limits: bool


@dataclass(frozen=True, slots=True)
class Prospects:
    """What the machine makes of a header."""

    memory: MemoryModel
    speed: SpeedModel | None
    room_bytes: int = 0


ProspectsOf = Callable[[ModelHeader], Prospects]


def offer(
    candidate: Candidate, variants: Iterable[Variant], prospects_of: ProspectsOf, goal: Goal
) -> Offer | None:
    """The first of `variants` (finest format first) that fits and meets the limits of `goal`; with
    none, the one that fits and misses them least; None when none fits.

    The window judged: the asked one, else batch 1 and USEFUL_CTX or the trained context.
    """
    fitting = []
    for variant in variants:
        planned = _judged(variant.header, prospects_of(variant.header), goal)
        if planned is None:
            continue
        missed = miss(planned.speed, goal)
        found = Offer(candidate, variant, planned, missed.none)
        if missed.none:
            return found
        fitting.append(((missed.asked, missed.default), found))
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def ranked(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """`offers` by RULE, ties by name. Limits come before the language: a model that is too slow
    stands below all that are fast enough, also when it alone was made for the language."""
    return tuple(sorted(offers, key=_order))


def _order(offer: Offer) -> tuple[object, ...]:
    candidate = offer.candidate
    quality = candidate.quality
    return (
        not offer.meets_limits,
        -SPEAKS[candidate.speaks],
        quality is None,
        -(quality.value if quality else 0.0),
        -(candidate.n_params or 0),
        candidate.name,
    )


def _judged(header: ModelHeader, prospects: Prospects, goal: Goal) -> PlannedLoad | None:
    load = judged_load(header, goal)
    memory = prospects.memory.memory(load)
    if not fits(memory, prospects.room_bytes):
        return None
    return PlannedLoad(load, memory, prospects.speed(load) if prospects.speed else None)


def judged_load(header: ModelHeader, goal: Goal) -> Load:
    """The window in which models are compared."""
    ctx = goal.ctx or min(USEFUL_CTX, header.ctx_train or USEFUL_CTX)
    kv_type = goal.kv_types[0] if goal.kv_types else "f16"
    return window_of(LOAD, goal.batch_size or 1, ctx, kv_type)
