"""`recommend`: the catalog, ranked by what this hardware really gives. The command line and HTTP
call this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache

from okno.advisor.figures import Place, place_of, speed_of
from okno.advisor.learnt import learnt
from okno.advisor.model import header_or_none, known_size
from okno.advisor.planning import this_machine
from okno.advisor.report import Json, load_json, machine_json
from okno.core.errors import BadSetting
from okno.core.header import ModelHeader
from okno.core.machine import Machine
from okno.core.plan import PlannedLoad
from okno.inspect.catalog import CatalogModel, catalog, source_of
from okno.inspect.hardware.overrides import Overrides
from okno.plan.goals import Goal
from okno.plan.memory import ClosedForm
from okno.plan.recommend import (
    RULE,
    Candidate,
    Offer,
    Prospects,
    Published,
    Speaks,
    Variant,
    offer,
    ranked,
)
from okno.plan.search import plan_windows, system_room_bytes
from okno.store.database import Database

TASKS: dict[str, frozenset[str]] = {
    "chat": frozenset({"chat", "hybrid-reasoning", "reasoning"}),
    "reasoning": frozenset({"reasoning", "hybrid-reasoning"}),
    "code": frozenset({"code"}),
    "embedding": frozenset({"embedding"}),
    "reranker": frozenset({"reranker"}),
    "base": frozenset({"base"}),
}
# The least bits a weight takes. Below 4 bits a smaller model serves better.
QUANTS = {"Q8_0": 8.5, "Q6_K": 6.5, "Q5_K_M": 5.5, "Q4_K_M": 4.5}
LANGUAGE_METRICS = {"ru": "ru_arena_general_winrate"}
LEAST_KNOWN = 2  # a metric known of fewer models orders nothing
DEFAULT_TOP = 10
MOST_TOP = 200


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """language: a code such as `ru`, lowered here. licence: words that its name must contain.
    Raises BadSetting for what means nothing, such as a language that no model lists."""

    task: str = "chat"
    language: str | None = None
    licence: str | None = None
    top: int = DEFAULT_TOP
    goal: Goal = field(default_factory=Goal)
    overrides: Overrides = field(default_factory=Overrides)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise BadSetting(
                f"task is {self.task[:40]!r}; it is one of {', '.join(TASKS)}.", param="task"
            )
        if not 1 <= self.top <= MOST_TOP:
            raise BadSetting(f"top is {self.top}; it is 1 to {MOST_TOP}.", param="top")
        if self.language is not None:
            object.__setattr__(self, "language", _language(self.language))


def _language(code: str) -> str:
    """In lower case. Raises BadSetting for one that no model of the catalog lists: nothing could be
    said of any."""
    known = known_languages()
    if code.lower() not in known:
        raise BadSetting(
            f"language is {code[:40]!r}; no model of the catalog lists it. Give one of these, "
            f"or leave it out: {', '.join(known)}.",
            param="language",
        )
    return code.lower()


@cache
def known_languages() -> tuple[str, ...]:
    """The codes that models of the catalog list, sorted."""
    return tuple(sorted({code for entry in catalog() for code in entry.languages}))


@dataclass(frozen=True, slots=True)
class Recommended:
    """A model of the list. window: the best one for the goal, with its speeds."""

    offer: Offer
    window: PlannedLoad | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """n_fitting, n_considered: models of the task and licence; metric: what published quality
    orders by, None when too few are known."""

    request: RecommendRequest
    machine: Machine
    models: tuple[Recommended, ...]
    n_considered: int
    n_fitting: int
    metric: str | None
    rule: str = RULE
    notes: tuple[str, ...] = ()


def recommend(
    request: RecommendRequest, *, machine: Machine | None = None, database: Database | None = None
) -> Recommendation:
    """The models of the catalog that serve best here. machine: the real one, found out when not
    given. Raises BadSetting for overrides that mean nothing."""
    real = machine or this_machine()
    place = place_of(real, request.overrides, learnt(real, None, database))
    entries = list(_considered(request))
    offers = [found for entry in entries if (found := _offer(entry, request, place))]
    metric = _metric(request.language, [by_name(entries, o.candidate.name) for o in offers])
    ordered = ranked([_with_quality(o, entries, metric) for o in offers])
    best = tuple(
        Recommended(one, _window(one, request.goal, place)) for one in ordered[: request.top]
    )
    return Recommendation(
        request, place.machine, best, len(entries), len(offers), metric,
        notes=tuple(_notes(request, place, offers)),
    )  # fmt: skip


def by_name(entries: Iterable[CatalogModel], name: str) -> CatalogModel:
    """The entry of that id."""
    return next(entry for entry in entries if entry.id == name)


def _considered(request: RecommendRequest) -> Iterator[CatalogModel]:
    wanted = (request.licence or "").lower()
    for entry in catalog():
        if entry.kind in TASKS[request.task] and wanted in (entry.license or "").lower():
            yield entry


def _offer(entry: CatalogModel, request: RecommendRequest, place: Place) -> Offer | None:
    candidate = Candidate(
        entry.id, entry.kind, entry.total_params, entry.license,
        _speaks(entry, request.language), entry.languages,
    )  # fmt: skip

    def prospects_of(header: ModelHeader) -> Prospects:
        memory = ClosedForm(header, place.machine, place.learnt.overhead)
        speed = speed_of(header, place, request.goal)
        return Prospects(memory, speed, system_room_bytes(place.machine))

    return offer(candidate, _variants(entry, _most_bytes(place)), prospects_of, request.goal)


def _most_bytes(place: Place) -> int:
    """Free memory of all kinds: weights beyond it need not be looked at."""
    devices = (device.free_bytes or 0 for device in place.machine.usable_devices)
    return place.machine.ram.free_bytes + sum(devices)


def _variants(entry: CatalogModel, most_bytes: int) -> Iterator[Variant]:
    """Formats whose weights may fit, finest first."""
    for quant, bits in QUANTS.items():
        if (entry.total_params or 0) * bits / 8 > most_bytes:
            continue
        header = header_or_none(entry, quant)
        if header is None:
            return  # its shape is not published
        published = known_size(entry, quant)
        yield Variant(quant, header, published or header.file_bytes, published is not None)


def _speaks(entry: CatalogModel, language: str | None) -> Speaks:
    if language is None:
        return "unknown"
    if language == "ru" and entry.russian in ("specialised", "declared"):
        return "specialised" if entry.russian == "specialised" else "declared"
    return "declared" if language in entry.languages else "unknown"


def _metric(language: str | None, entries: Sequence[CatalogModel]) -> str | None:
    """The language's own metric where enough models have it, else the one most models have."""
    counts = Counter(quality.metric for entry in entries for quality in entry.quality)
    own = LANGUAGE_METRICS.get(language or "")
    if own and counts[own] >= LEAST_KNOWN:
        return own
    known = [(count, name) for name, count in counts.items() if count >= LEAST_KNOWN]
    return max(known)[1] if known else None


def _with_quality(found: Offer, entries: Sequence[CatalogModel], metric: str | None) -> Offer:
    for quality in by_name(entries, found.candidate.name).quality:
        if quality.metric == metric:
            source = source_of(quality.source) or "the catalog"
            published = Published(quality.metric, quality.value, source)
            return replace(found, candidate=replace(found.candidate, quality=published))
    return found


def _window(found: Offer, goal: Goal, place: Place) -> PlannedLoad | None:
    header = found.variant.header
    memory = ClosedForm(header, place.machine, place.learnt.overhead)
    return plan_windows(header, place.machine, memory, speed_of(header, place, goal), goal).pick


def _notes(request: RecommendRequest, place: Place, offers: Sequence[Offer]) -> Iterator[str]:
    if place.source == "rough":
        yield place.guess_note
    if request.licence:
        yield "Models whose licence is not published are left out."
    if request.language and offers and all(one.candidate.speaks == "unknown" for one in offers):
        yield f"None of these models lists {request.language}, so it orders nothing."
    yield from place.learnt.notes


def as_json(found: Recommendation) -> Json:
    """The list for programs."""
    return {
        "machine": machine_json(found.machine),
        "task": found.request.task,
        "language": found.request.language,
        "licence": found.request.licence,
        "rule": found.rule,
        "metric": found.metric,
        "n_considered": found.n_considered,
        "n_fitting": found.n_fitting,
        "models": [_model_json(one) for one in found.models],
        "notes": list(found.notes),
    }


def _model_json(one: Recommended) -> Json:
    candidate, variant = one.offer.candidate, one.offer.variant
    return {
        **asdict(candidate),
        "quant": variant.quant,
        "file_bytes": variant.file_bytes,
        "file_is_published": variant.is_published,
        "meets_limits": one.offer.meets_limits,
        "alone": load_json(one.offer.planned),
        "window": None if one.window is None else load_json(one.window),
    }
