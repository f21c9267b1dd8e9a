"""Memory and speed of a model on a machine: from the engine's dry run and the calibration where
these speak of that machine, else from the closed form and its data sheet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from okno.advisor.learnt import Learnt, with_measured
from okno.advisor.report import SpeedSource
from okno.core.calibration import Calibration
from okno.core.errors import DoesNotFit, EngineFailed, ModelUnusable
from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.machine import Machine
from okno.core.plan import MemoryPlan, SpeedPlan
from okno.inspect.hardware.overrides import Overrides, apply
from okno.plan.goals import Goal
from okno.plan.memory import Anchored, ClosedForm, MemoryModel
from okno.plan.refine import Refinement
from okno.plan.search import SpeedModel
from okno.plan.speed import Planner
from okno.plan.speed_rough import computes_on_cpu, rough_calibration


@dataclass(frozen=True, slots=True)
class Place:
    """Where the model would run. is_here: it computes on the devices of this machine, at their
    pace: what was learnt here counts, and the engine's dry run speaks of it. on_cpu: no layer is
    on an accelerator."""

    machine: Machine
    is_here: bool
    on_cpu: bool
    learnt: Learnt
    calibration: Calibration
    source: SpeedSource

    @property
    def guess_note(self) -> str:
        """Why speeds are guessed, and what to do about it where something can be done."""
        if not self.is_here:
            return (
                "Speeds are guessed from the data sheet of that hardware: their intervals are wide."
            )
        if not self.on_cpu:
            return (
                "Speeds are guessed from the accelerator's data sheet, so their intervals are "
                "wide: `okno calibrate` measures the processor only; `okno tune` measures this "
                "model."
            )
        return (
            "Speeds are guessed from the data sheet of this hardware, so their intervals are wide; "
            "`okno calibrate` measures this machine in 90 s."
        )


def place_of(real: Machine, overrides: Overrides, learnt: Learnt, gpu_layers: int = -1) -> Place:
    """`real` as `overrides` change it, with what of `learnt` (of `real`) still holds there, for a
    load with so many layers on the accelerator. Raises BadSetting for overrides that mean
    nothing."""
    machine = apply(real, overrides)
    same_devices = _devices(machine) == _devices(real)
    same_pace = overrides.bandwidth_bytes_s is None and overrides.cores is None
    is_here = same_devices and same_pace
    if not is_here:
        learnt = Learnt(depth=learnt.depth, notes=learnt.notes)
    on_cpu = computes_on_cpu(machine, gpu_layers)
    if learnt.calibration is not None and on_cpu:
        return Place(machine, is_here, on_cpu, learnt, learnt.calibration, "measured")
    learnt = replace(learnt, refinement=Refinement())  # learnt against the calibration
    rough = rough_calibration(machine, "cpu" if on_cpu else None)
    return Place(machine, is_here, on_cpu, learnt, rough, "rough")


def _devices(machine: Machine) -> list[tuple[str, str]]:
    return [(device.id, device.name) for device in machine.usable_devices]


@contextmanager
def memory_of(header: ModelHeader, place: Place, path: Path | None) -> Iterator[EngineFirst]:
    """The memory model; its child process ends with the context. path: of the GGUF, for the
    engine's dry run; None: the closed form."""
    closed = ClosedForm(header, place.machine, place.learnt.overhead)
    if path is None or not place.is_here:
        yield EngineFirst(None, closed)
        return
    from okno.engines.dry_run import DryRun

    with DryRun(path, header) as dry_run:
        engine = Anchored(header, place.machine, dry_run.memory, place.learnt.overhead)
        yield EngineFirst(engine, closed)


@dataclass(slots=True)
class EngineFirst:
    """The engine's answer; the closed form's for a window the engine refuses, and for all once the
    engine cannot read the model. trouble: what it said then."""

    engine: MemoryModel | None
    closed: MemoryModel
    trouble: list[str] = field(default_factory=list)

    def memory(self, load: Load) -> MemoryPlan:
        if self.engine is not None and not self.trouble:
            try:
                return self.engine.memory(load)
            except DoesNotFit:
                return self.closed.memory(load)
            except (ModelUnusable, EngineFailed) as error:
                self.trouble.append(error.message)
        return self.closed.memory(load)


def speed_of(header: ModelHeader, place: Place, goal: Goal) -> SpeedModel:
    """Speeds of the model's loads for the goal's prompts and fill; what was measured replaces what
    is predicted."""
    return partial(
        _speed, Planner(header, place.calibration, place.learnt.refinement), place.learnt, goal
    )


def _speed(planner: Planner, learnt: Learnt, goal: Goal, load: Load) -> SpeedPlan:
    predicted = planner.predict(load, fill_tokens=goal.fill, prompt_tokens=goal.prompt_tokens)
    return with_measured(predicted, load, learnt.measured, goal)
