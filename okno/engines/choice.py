"""What a worker chooses its window by: the header, the machine, and what was learnt of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from okno.core.calibration import Calibration, from_json
from okno.core.load import Load
from okno.core.machine import Device, Machine
from okno.core.plan import SpeedPlan
from okno.core.window import KVType
from okno.engines.auto_window import Asked, Chosen, choose_window
from okno.engines.dry_run import DryRun
from okno.engines.learning import Learner, RowLearner, StepLearner
from okno.engines.protocol import WorkerOptions
from okno.inspect.hardware.machine import this_machine
from okno.inspect.header import read_header
from okno.inspect.memory import own_bytes
from okno.plan.goals import Goal
from okno.plan.memory import DEFAULT_OVERHEAD, Anchored, Overhead
from okno.plan.refine import refinement_from
from okno.plan.speed import Planner
from okno.plan.speed_rough import computes_on_cpu, rough_calibration

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Choice:
    """knows_rows: the learner starts from a calibration of what computes, or a lesson. taken: bytes
    on devices that another model keeps."""

    chosen: Chosen
    learner: Learner
    knows_rows: bool
    taken: Mapping[str, int] = field(default_factory=dict)


def choose_for(
    options: WorkerOptions,
    kv_type: KVType,
    taken: Mapping[str, int] = NOTHING,
    held_bytes: Mapping[str, int] | None = None,
) -> Choice:
    """The window for `options` here and now. taken: bytes on devices (`cpu`, or a device's id)
    that are as good as gone. held_bytes: this process has the model loaded and serves, and holds so
    much on accelerators: what it holds counts as free, and the engine is asked in a child, whose
    end costs nothing. Raises ModelUnusable for a file that is no sound GGUF, BadSetting,
    DoesNotFit."""
    path = Path(options.model_path)
    header, machine = read_header(path), _machine(taken, held_bytes or NOTHING)
    asked = _asked(options, kv_type)
    known = _known_calibration(options, machine)
    refinement = refinement_from(options.refinement if known else None)
    planner = Planner(header, known or _guessed(options, machine), refinement)
    with DryRun(path, header, in_process=held_bytes is None) as dry_run:
        memory = Anchored(header, machine, dry_run.memory, _overhead(options))
        speed = partial(_speed, planner, asked.goal)
        chosen = choose_window(asked, header, machine, memory, speed)
    if header.is_embedding_model:
        return Choice(chosen, RowLearner(), knows_rows=True)
    learner = StepLearner(planner.model(chosen.load), refinement, keeps=known is not None)
    return Choice(chosen, learner, knows_rows=known is not None)


def _machine(taken: Mapping[str, int], held: Mapping[str, int]) -> Machine:
    """This machine as it is without us: what this process already holds, also on accelerators
    (`held`), is part of the plan; and without what is `taken`."""
    machine = this_machine()
    left_bytes = machine.ram.free_bytes + own_bytes() - taken.get("cpu", 0)
    devices = tuple(
        _changed(device, held.get(device.id, 0) - taken.get(device.id, 0))
        for device in machine.devices
    )
    left_bytes -= sum(taken.get(device.id, 0) for device in devices if device.unified)
    return replace(
        machine, ram=replace(machine.ram, free_bytes=max(0, left_bytes)), devices=devices
    )


def _changed(device: Device, by_bytes: int) -> Device:
    if device.free_bytes is None:
        return device
    return replace(device, free_bytes=max(0, device.free_bytes + by_bytes))


def _asked(options: WorkerOptions, kv_type: KVType) -> Asked:
    return Asked(
        options.batch_size, options.ctx, options.kv_pool_tokens, kv_type, options.step_tokens,
        options.prefer, options.max_ttft_s, options.min_tok_s, options.mmap,
        options.flash_attention, options.gpu_layers, options.kv_unified,
    )  # fmt: skip


def _known_calibration(options: WorkerOptions, machine: Machine) -> Calibration | None:
    """What was measured of the processor, where that is what computes."""
    if options.calibration is None or not computes_on_cpu(machine, options.gpu_layers):
        return None
    return from_json(options.calibration)


def _guessed(options: WorkerOptions, machine: Machine) -> Calibration:
    """From the data sheet of the processor or the accelerator."""
    on_cpu = computes_on_cpu(machine, options.gpu_layers)
    return rough_calibration(machine, "cpu" if on_cpu else None)


def _overhead(options: WorkerOptions) -> Overhead:
    if options.process_bytes is None:
        return DEFAULT_OVERHEAD
    return replace(DEFAULT_OVERHEAD, process_bytes=options.process_bytes)


def _speed(planner: Planner, goal: Goal, load: Load) -> SpeedPlan:
    return planner.predict(load, fill_tokens=goal.fill, prompt_tokens=goal.prompt_tokens)
