"""What a worker chooses its window by: the header, the machine, and what was learnt of it."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from okno.core.calibration import Calibration, from_json
from okno.core.load import Load
from okno.core.machine import Machine
from okno.core.plan import SpeedPlan
from okno.core.window import KVType
from okno.engines.auto_window import Asked, Chosen, choose_window
from okno.engines.dry_run import DryRun
from okno.engines.protocol import WorkerOptions
from okno.inspect.hardware.machine import this_machine
from okno.inspect.header import read_header
from okno.plan.goals import Goal
from okno.plan.memory import DEFAULT_OVERHEAD, Anchored, Overhead
from okno.plan.speed import Planner
from okno.plan.speed_rough import rough_calibration


def choose_for(options: WorkerOptions, kv_type: KVType) -> Chosen:
    """The window for `options` here and now. Raises ModelUnusable for a file that is no sound
    GGUF, BadSetting, DoesNotFit."""
    path = Path(options.model_path)
    header, machine = read_header(path), _machine()
    asked = _asked(options, kv_type)
    speed = partial(_speed, Planner(header, _calibration(options, machine)), asked.goal)
    with DryRun(path, header) as dry_run:
        memory = Anchored(header, machine, dry_run.memory, _overhead(options))
        return choose_window(asked, header, machine, memory, speed)


def _machine() -> Machine:
    """This machine as it is without us: what this process already holds is part of the plan."""
    machine = this_machine()
    held_bytes = psutil.Process(os.getpid()).memory_info().rss
    ram = replace(machine.ram, free_bytes=machine.ram.free_bytes + held_bytes)
    return replace(machine, ram=ram)


def _asked(options: WorkerOptions, kv_type: KVType) -> Asked:
    return Asked(
        options.batch_size, options.ctx, options.kv_pool_tokens, kv_type, options.step_tokens,
        options.prefer, options.max_ttft_s, options.min_tok_s, options.mmap,
        options.flash_attention, options.gpu_layers, options.kv_unified,
    )  # fmt: skip


def _calibration(options: WorkerOptions, machine: Machine) -> Calibration:
    """Measured here, or guessed from the machine's data sheet."""
    if options.calibration is None:
        return rough_calibration(machine)
    return from_json(options.calibration)


def _overhead(options: WorkerOptions) -> Overhead:
    if options.process_bytes is None:
        return DEFAULT_OVERHEAD
    return replace(DEFAULT_OVERHEAD, process_bytes=options.process_bytes)


def _speed(planner: Planner, goal: Goal, load: Load) -> SpeedPlan:
    return planner.predict(load, fill_tokens=goal.fill, prompt_tokens=goal.prompt_tokens)
