"""What a worker chooses its window by: the header, the machine, and what was learnt of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from okno.core.calibration import Calibration, from_json
from okno.core.errors import DoesNotFit, ModelUnusable, OknoError
from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.machine import Device, Machine
from okno.core.plan import SpeedPlan
from okno.core.window import KVType
from okno.engines.auto_window import Asked, Chosen, choose_window, plain_window
from okno.engines.beside import blaming, extras_of, notes_beside
from okno.engines.dry_run import DryRun
from okno.engines.learning import Learner, RowLearner, StepLearner
from okno.engines.protocol import WorkerOptions
from okno.inspect.hardware.machine import this_machine
from okno.inspect.header import read_header
from okno.inspect.memory import own_bytes
from okno.plan.goals import Goal
from okno.plan.memory import DEFAULT_OVERHEAD, Anchored, Overhead
from okno.plan.memory_extras import WithExtras
from okno.plan.memory_sizes import asked_sizes
from okno.plan.prediction_head import uses_head
from okno.plan.refine import refinement_from
from okno.plan.speed import Planner
from okno.plan.speed_rough import computes_on_cpu, rough_calibration

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Choice:
    """knows_rows: the learner starts from a calibration of what computes, or a lesson. head: the
    model's own prediction head guesses. draft_bytes: of what guesses, by device."""

    chosen: Chosen
    learner: Learner
    knows_rows: bool
    head: bool = False
    draft_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a process that serves holds: of everything on accelerators, by device. head: its model
    was loaded with the prediction head."""

    on_accelerators: Mapping[str, int]
    head: bool


def choose_for(options: WorkerOptions, kv_type: KVType, loaded: Loaded | None = None) -> Choice:
    """The window for `options` here and now, with what they ask for beside the model. loaded: this
    process has the model loaded and serves: what it holds counts as free, and the engine is asked
    in a child, whose end costs nothing. Raises ModelUnusable for a file that is no sound GGUF,
    BadSetting, DoesNotFit.

    A prediction head that nobody named is left out where the engine fails over it, or where no
    window fits beside it."""
    header = read_header(Path(options.model_path))
    if loaded is not None:
        return _choose(options, kv_type, header, loaded, head=loaded.head)
    has_draft_model = bool(options.draft_path)
    if not uses_head(options.speculate, header, has_draft_model=has_draft_model):
        return _choose(options, kv_type, header, None, head=False)
    try:
        return _choose(options, kv_type, header, None, head=True)
    except (DoesNotFit, ModelUnusable) as error:
        if options.speculate == "mtp":
            raise
        return _without_head(_choose(options, kv_type, header, None, head=False), error)


def _without_head(choice: Choice, error: OknoError) -> Choice:
    why = "nothing fits beside it" if isinstance(error, DoesNotFit) else error.message
    note = f"the model's prediction head (MTP) is not used: {why}"
    return replace(choice, chosen=replace(choice.chosen, notes=(*choice.chosen.notes, note)))


def _choose(
    options: WorkerOptions,
    kv_type: KVType,
    header: ModelHeader,
    loaded: Loaded | None,
    *,
    head: bool,
) -> Choice:
    path = Path(options.model_path)
    machine = _machine(loaded.on_accelerators if loaded else NOTHING)
    asked, serves = _asked(options, kv_type), loaded is not None
    known = _known_calibration(options, machine)
    refinement = refinement_from(options.refinement if known else None)
    planner = Planner(header, known or _guessed(options, machine), refinement)
    with (
        DryRun(path, header, in_process=not serves) as dry_run,
        extras_of(options, header, machine, head=head, serves=serves) as extras,
    ):
        inner = Anchored(header, machine, dry_run.memory, _overhead(options))
        memory = WithExtras(inner, header, machine, extras)
        speed = partial(_speed, planner, asked.goal)
        try:
            chosen = choose_window(asked, header, machine, memory, speed)
        except DoesNotFit as error:
            least = asked.load(plain_window(asked, header.ctx_train))
            raise blaming(error, options, extras.draft_bytes(least)) from None
        draft = extras.draft_bytes(chosen.load)
    chosen = replace(chosen, notes=(*chosen.notes, *notes_beside(options, draft)))
    if header.is_embedding_model:
        return Choice(chosen, RowLearner(), True, head, draft)
    sizes = asked_sizes(header, chosen.load)
    learner = StepLearner(
        planner.model(chosen.load), refinement,
        keeps=known is not None, fills=sizes.filler_seq is not None,
    )  # fmt: skip
    return Choice(chosen, learner, known is not None, head, draft)


def _machine(held: Mapping[str, int]) -> Machine:
    """This machine as it is without us: what this process already holds, also on accelerators
    (`held`), is part of the plan."""
    machine = this_machine()
    free_bytes = machine.ram.free_bytes + own_bytes()
    devices = tuple(_changed(device, held.get(device.id, 0)) for device in machine.devices)
    return replace(machine, ram=replace(machine.ram, free_bytes=free_bytes), devices=devices)


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
