"""What the store knows of this machine and of a model: read once for a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from okno.core.calibration import Calibration, from_json
from okno.core.errors import BadSetting, StoreUnusable
from okno.core.load import Load
from okno.core.machine import Machine
from okno.core.plan import Figure, SpeedPlan
from okno.inspect.hardware.engine import engine_name
from okno.plan.depth import DepthCurve
from okno.plan.goals import Goal
from okno.plan.memory import DEFAULT_OVERHEAD, Overhead
from okno.plan.refine import Refinement, refinement_from
from okno.store.calibrations import CalibrationRecord, list_calibrations
from okno.store.database import Database
from okno.store.depth_curves import load_depth
from okno.store.identity import model_identity
from okno.store.measurements import Measured, load_measured, save_measured
from okno.store.overheads import load_overheads
from okno.store.refinements import load_refinement, save_refinement

Lesson = list[list[float]]
RATES = ("alone_tok_s", "user_tok_s", "total_tok_s", "prefill_tok_s", "ttft_s", "ttft_loaded_s")


@dataclass(frozen=True, slots=True)
class Learnt:
    """calibration None: never measured here. measured: windows of the model that were really run.
    refinement: what serving the model has taught about its steps, beyond the calibration. notes:
    what could not be read."""

    calibration: Calibration | None = None
    overhead: Overhead = DEFAULT_OVERHEAD
    measured: tuple[Measured, ...] = ()
    depth: DepthCurve | None = None
    refinement: Refinement = field(default_factory=Refinement)
    notes: tuple[str, ...] = ()


def learnt(machine: Machine, model: Path | None, database: Database | None = None) -> Learnt:
    """All that is known. A store that cannot be read is said in a note, not raised: a plan is
    possible without it."""
    database = database or Database()
    try:
        return _learnt(machine, model, database)
    except (StoreUnusable, BadSetting) as error:
        return Learnt(notes=(error.message,))


def _learnt(machine: Machine, model: Path | None, database: Database) -> Learnt:
    engine, name = engine_name(), machine.fingerprint
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()
    records = list_calibrations(database, name)
    try:
        calibration = best_calibration(records, engine, machine.cpu.usable_cores)
    except BadSetting as error:
        notes = (error.message,)
    overheads = load_overheads(database, name, engine)
    known = {f.name: int(overheads[f.name]) for f in fields(Overhead) if f.name in overheads}
    found = Learnt(calibration, replace(DEFAULT_OVERHEAD, **known), notes=notes)
    if model is None or not database.is_there:
        return found
    identity = model_identity(model)
    return replace(
        found,
        measured=tuple(load_measured(database, name, engine, identity)),
        depth=_depth(database, identity),
        refinement=_refinement(database, name, identity, calibration),
    )


def best_calibration(
    records: Sequence[CalibrationRecord], engine: str, threads: int
) -> Calibration | None:
    """Of this engine: with so many threads before others, then the newest. Raises BadSetting
    when none of them can be read."""
    mine = [record for record in records if record.key.engine == engine]
    mine.sort(key=lambda record: (record.key.threads != threads, -record.made_s))
    trouble: BadSetting | None = None
    for record in mine:
        try:
            return from_json(record.document)
        except BadSetting as error:  # an older okno made it
            trouble = trouble or error
    if trouble is not None:
        raise trouble
    return None


def _depth(database: Database, identity: str) -> DepthCurve | None:
    """The newest curve; None when there is none, or a later okno wrote it."""
    record = load_depth(database, identity)
    if record is None:
        return None
    from okno.plan.depth_document import from_document  # imports msgspec

    return from_document(record.document)


def _refinement(
    database: Database, machine: str, identity: str, calibration: Calibration | None
) -> Refinement:
    """Learnt against this very calibration; nothing otherwise."""
    document = load_refinement(database, machine, engine_name(), identity)
    if document is None or calibration is None:
        return Refinement()
    if document.get("calibration") != calibration.created:
        return Refinement()
    return refinement_from(document.get("groups"))


def lesson_keeper(
    machine: Machine, model: Path, known: Learnt, database: Database | None = None
) -> Callable[[Lesson], None] | None:
    """What keeps a lesson (Refinement.to_json) of serving `model`; None without a calibration to
    improve on. It raises StoreUnusable."""
    calibration = known.calibration
    if calibration is None:
        return None
    made = calibration.created
    store, identity = database or Database(), model_identity(model)

    def keep(lesson: Lesson) -> None:
        document = {"calibration": made, "groups": lesson}
        save_refinement(store, machine.fingerprint, engine_name(), identity, document)

    return keep


def save_run(
    database: Database, machine: Machine, model: Path, load: Load, speed: SpeedPlan
) -> None:
    """Keep the measured figures of a window, each with the tokens it was measured at."""
    figures = {
        f"{name}@{speed.prompt_tokens}": figure
        for name in RATES
        if (figure := getattr(speed, name)).kind == "measured"
    }
    save_measured(
        database, machine.fingerprint, engine_name(), model_identity(model), load, figures
    )


def with_measured(
    predicted: SpeedPlan, load: Load, measured: Sequence[Measured], goal: Goal
) -> SpeedPlan:
    """`predicted` with the figures that were measured for such a load at these prompts.

    What a step costs depends on the live sequences and their tokens, not on how wide the window
    is, so a run counts for every ctx that holds the prompt, with the same batch size, KV type and
    way of loading.
    """
    is_cut = predicted.prompt_tokens < goal.prompt_tokens - 1  # the window is too narrow for it
    if goal.fill != goal.prompt_tokens or is_cut:
        return predicted
    found: dict[str, Figure] = {}
    for run in measured:
        if _alike(run.load, load):
            for name in RATES:
                figure = run.figures.get(f"{name}@{goal.prompt_tokens}")
                if figure is not None:
                    found[name] = figure

    def best(name: str) -> Figure:
        known: Figure = getattr(predicted, name)
        return found.get(name, known)

    return replace(
        predicted, alone_tok_s=best("alone_tok_s"), user_tok_s=best("user_tok_s"),
        total_tok_s=best("total_tok_s"), prefill_tok_s=best("prefill_tok_s"),
        ttft_s=best("ttft_s"), ttft_loaded_s=best("ttft_loaded_s"),
    )  # fmt: skip


def _alike(one: Load, other: Load) -> bool:
    """Equal but for the ctx."""
    window = replace(one.window, ctx=other.window.ctx, kv_pool_tokens=other.window.kv_pool_tokens)
    return replace(one, window=window) == other
