"""What a download would bring and whether it would run here, said before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from okno.cli.text import size
from okno.convert.disk import free_bytes_at
from okno.core.errors import AccessDenied, OknoError
from okno.inspect.source_hub import shown_endpoint

if TYPE_CHECKING:
    from okno.advisor.report import PlanReport
    from okno.advisor.request import PlanRequest
    from okno.convert.fetch_plan import FetchPlan
    from okno.convert.hub_files import HubFile


@dataclass(frozen=True, slots=True)
class Offer:
    """lines: for people. fits: whether some window of it fits here; None when that cannot be said
    before it is here. report: the plan that says so."""

    lines: tuple[str, ...]
    fits: bool | None
    report: PlanReport | None = None


def offer_of(plan: FetchPlan, request: PlanRequest) -> Offer:
    """`plan` in words, and how it would run as `request` asks (its model is set here)."""
    from okno.advisor.planning import make_plan

    lines, address = tuple(download_lines(plan)), address_of(plan)
    try:
        report = make_plan(replace(request, model=address))
    except AccessDenied:
        raise  # the weights would not come either
    except OknoError as error:
        why = f"How it would run here cannot be said before it is here: {error.message}"
        return Offer((*lines, why), None)
    fits = report.plan.pick is not None
    return Offer((*lines, *_runs(report)), fits, report)


def address_of(plan: FetchPlan) -> str:
    """The model of `plan` as the planner reads it over the network: of that very commit."""
    names = [file.name for file in plan.weights]
    inside = f"/{names[0]}" if names[0].endswith(".gguf") or len(names) == 1 else ""
    return f"hf:{plan.reference.id}{inside}@{plan.commit}"


def download_lines(plan: FetchPlan) -> Iterator[str]:
    """How much, of what, into where."""
    reference = plan.reference
    named = [file.name for file in plan.weights]
    shown = named[0] if len(named) == 1 else f"{named[0]} and {len(named) - 1} more"
    revision = f" at {plan.commit[:12]}" if reference.revision != plan.commit else ""
    yield f"{reference.id}{revision}: {size(plan.total_bytes)}, {shown}."
    cache = plan.repository.parent
    if plan.unchecked:
        yield (
            f"{shown_endpoint()} tells no checksum of {_some(plan.unchecked)}: only size and "
            "header can be checked, not the content. Take it from a hub that tells them, or from "
            "somebody you trust."
        )
    if any(not file.size_bytes for file in plan.unchecked):
        free = size(free_bytes_at(cache))
        yield f"It does not tell all sizes either; {free} are free in {cache}."
        return
    here = plan.total_bytes - plan.missing_bytes
    if plan.missing_bytes == 0:
        yield f"All of it is here already, in {cache}; it is checked."
        return
    part = f" ({size(here)} are here already)" if here else ""
    yield (
        f"{size(plan.missing_bytes)} to download{part} into {cache}, where "
        f"{size(free_bytes_at(cache))} are free."
    )


def _some(files: Sequence[HubFile]) -> str:
    """`a`, `a and b`, `a and 4 more`."""
    first, *others = [file.name for file in files]
    if not others:
        return first
    return f"{first} and {others[0] if len(others) == 1 else f'{len(others)} more'}"


def _runs(report: PlanReport) -> Iterator[str]:
    """Memory and speed of the best window here."""
    from okno.plan.words import memory_sentence, named, speed_sentence

    pick = report.plan.pick
    if pick is None:
        yield "No window of this model fits into the free memory."
        for advice in report.advice[:3]:
            yield advice.text
        return
    yield f"Here it would run with {named(pick)}. {memory_sentence(pick.memory)}"
    if pick.speed:
        yield speed_sentence(pick.speed, pick.load.window.batch_size)
