"""`make_plan`: from a question to a report. The command line and HTTP call this."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from okno.advisor.beside import extras_of
from okno.advisor.figures import EngineFirst, Place, memory_of, place_of, speed_of
from okno.advisor.learnt import learnt
from okno.advisor.model import Found, find, header_or_none, smaller_models
from okno.advisor.quants import DEFAULT_QUANT, finer_first
from okno.advisor.report import PlanReport
from okno.advisor.request import PlanRequest
from okno.advisor.words import words_of
from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.machine import Machine
from okno.core.plan import PlannedLoad
from okno.plan.advice import Advice, Trouble, advise, short_by
from okno.plan.depth import DepthCurve, enough_ctx, in_words
from okno.plan.goals import MIN_CTX, Goal, useful_ctx
from okno.plan.memory import ClosedForm, MemoryModel
from okno.plan.memory_extras import Extras, WithExtras
from okno.plan.refine import Refinement
from okno.plan.search import (
    FIRST_CTX,
    Plan,
    fits,
    plan_windows,
    system_room_bytes,
    window_of,
)
from okno.plan.user_table import Judged, claim_for, judge
from okno.plan.words import size
from okno.store.database import Database

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class _Case:
    """A model on a place, with what is loaded beside it."""

    found: Found
    place: Place
    request: PlanRequest
    goal: Goal
    extras: Extras

    @property
    def header(self) -> ModelHeader:
        return self.found.header

    def with_extras(self, memory: MemoryModel) -> MemoryModel:
        """`memory` (of this model, or another in its stead) and what is loaded beside it."""
        return WithExtras(memory, self.header, self.place.machine, self.extras)


def make_plan(
    request: PlanRequest, *, machine: Machine | None = None, database: Database | None = None,
    use_calibration: bool = True, with_words: bool = False,
) -> PlanReport:  # fmt: skip
    """Plan for what `request` asks. machine: the real one, found out when not given. with_words:
    also count words per token with the model's tokenizer, where its file is here.

    Raises ModelNotFound, ModelUnusable, BadSetting, and what reading over the network raises.
    """
    quant = None if request.quant == AUTO else request.quant
    found = find(request.model, request.models_dir, quant, by_name=request.by_name)
    if request.wanted is not None:
        found = found.quantised_to(request.wanted)
    real = machine or this_machine()
    known = learnt(real, found.path, database)
    if not use_calibration:
        known = replace(known, calibration=None, measured=(), refinement=Refinement())
    place = place_of(real, request.overrides, known, request.template.gpu_layers)
    goal = _with_depth(request.goal, known.depth)
    with extras_of(
        request.beside, found.header, found.path, place, request.models_dir,
        dry_run=request.dry_run,
    ) as extras:  # fmt: skip
        case = _Case(found, place, request, goal, extras)
        if found.quants and (request.quant == AUTO or goal.prefer == "quality"):
            case = _finest(case)
        path = case.found.path if request.dry_run else None
        with ThreadPoolExecutor(1) as other, memory_of(case.header, place, path) as memory:
            counted = other.submit(words_of, path, real, database) if with_words and path else None
            report = _report(case, memory)
            return replace(report, words=counted.result()) if counted else report


def this_machine() -> Machine:
    """The machine we run on; its probes are imported only now."""
    from okno.inspect.hardware import machine

    return machine.this_machine()


def _with_depth(goal: Goal, curve: DepthCurve | None) -> Goal:
    enough = enough_ctx(curve) if curve else None
    return replace(goal, depth_ctx=goal.depth_ctx or enough)


def _finest(case: _Case) -> _Case:
    """The finest format of which a useful window fits and meets the limits; else the coarsest."""
    found = case.found
    for quant in found.quants:
        tried = replace(case, found=found.stored_as(quant))
        memory = ClosedForm(tried.header, case.place.machine, case.place.learnt.overhead)
        plan = _plan(tried, case.with_extras(memory))
        useful = useful_ctx(case.goal, tried.header.ctx_train)
        if plan.pick and plan.meets_limits and plan.pick.load.window.ctx >= useful:
            return tried
    return replace(case, found=found.stored_as(found.quants[-1]))


def _plan(case: _Case, memory: MemoryModel) -> Plan:
    return plan_windows(
        case.header, case.place.machine, memory, speed_of(case.header, case.place, case.goal),
        case.goal, template=case.request.template,
    )  # fmt: skip


def _report(case: _Case, engine: EngineFirst) -> PlanReport:
    memory = case.with_extras(engine)
    plan = _plan(case, memory)
    asked = _asked(plan)
    is_short = not fits(asked.memory) if asked is not None else plan.pick is None
    if is_short and case.extras.spares_draft:
        extras = replace(case.extras, draft=None, spares_draft=False)
        return _report(replace(case, extras=extras), engine)
    instead = None
    if asked is not None and not fits(asked.memory):
        free = replace(case, goal=replace(case.goal, batch_size=None, ctx=None))
        instead = _plan(free, memory).pick
    curve = case.place.learnt.depth
    return PlanReport(
        case.found.subject, case.place.machine, plan, asked, case.place.source,
        instead=instead,
        advice=_advice(case, plan, memory, asked),
        table=_table(case, plan, memory),
        depth=None if curve is None else f"Depth, measured on {curve.text_name}: {in_words(curve)}",
        notes=(*_kv_note(plan, asked), *_notes(case, engine)),
    )  # fmt: skip


def _asked(plan: Plan) -> PlannedLoad | None:
    """The one window that was asked for: with the first of its KV types where that fits, else with
    the one it was picked with."""
    if not plan.goal.is_fixed:
        return None
    first = plan.loads[0]
    return first if fits(first.memory) else plan.pick or first


def _kv_note(plan: Plan, asked: PlannedLoad | None) -> Iterator[str]:
    """Why the asked window has another KV type than the first of those it may have."""
    if asked is None or asked is plan.loads[0]:
        return
    first = plan.loads[0]
    yield (
        f"KV is {asked.load.window.kv_type}, because with {first.load.window.kv_type} this window "
        f"needs {size(first.memory.needed_bytes)}, {short_by(first.memory)}."
    )


def _advice(
    case: _Case, plan: Plan, memory: MemoryModel, asked: PlannedLoad | None
) -> tuple[Advice, ...]:
    """Only where the asked window does not fit, or none does."""
    if fits(asked.memory) if asked else plan.pick is not None:
        return ()
    load = asked.load if asked else _smallest(case)
    overhead, machine = case.place.learnt.overhead, case.place.machine

    def memory_of_header(header: ModelHeader) -> MemoryModel:
        return case.with_extras(ClosedForm(header, machine, overhead))

    others = (header_or_none(one, DEFAULT_QUANT) for one in smaller_models(case.found.entry))
    return advise(
        Trouble(
            case.header, machine, load, memory, memory_of_header,
            variants=tuple(finer_first(case.header)),
            others=tuple(header for header in others if header is not None),
        )
    )  # fmt: skip


def _smallest(case: _Case) -> Load:
    """The least window of the goal."""
    goal = case.goal
    ctx = goal.ctx or min(FIRST_CTX, case.header.ctx_train or FIRST_CTX)
    kv_type = goal.kv_types[0] if goal.kv_types else "f16"
    return window_of(case.request.template, goal.batch_size or 1, max(MIN_CTX, ctx), kv_type)


def _table(case: _Case, plan: Plan, memory: MemoryModel) -> Judged | None:
    """The user's own row for the memory where the model would live."""
    machine = case.place.machine
    dedicated = [device for device in machine.usable_devices if not device.unified]
    ram_bytes = min(machine.ram.total_bytes, machine.ram.limit_bytes or machine.ram.total_bytes)
    claim = claim_for(dedicated[0].total_bytes if dedicated else ram_bytes)
    if claim is None:
        return None
    kv_type = plan.pick.load.window.kv_type if plan.pick else "f16"
    return judge(
        claim, memory, case.header.ctx_train or claim.ctx_high, template=case.request.template,
        room_bytes=system_room_bytes(machine), kv_type=kv_type,
    )  # fmt: skip


def _notes(case: _Case, memory: EngineFirst) -> Iterator[str]:
    if case.place.source == "rough":
        yield case.place.guess_note
    if case.found.is_estimated:
        yield (
            f"Sizes are computed from the model's shape, stored as {case.header.file_type} would "
            "store it."
        )
    if case.extras.draft or case.extras.adapters:
        yield "Speeds are those of the model alone, without adapters and guessed tokens."
    for trouble in memory.trouble:
        yield f"The engine here could not answer for this model ({trouble})."
    yield from case.place.learnt.notes


def asked_fits(report: PlanReport) -> bool:
    """There is a window: the asked one, or a pick."""
    shown = report.asked or report.plan.pick
    return shown is not None and fits(shown.memory)
