"""`okno calibrate`: learn what this machine is fast at, and show it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from okno.bench.calibrate import BUDGET_S
from okno.cli.keeping import kept, remark
from okno.core.errors import BadSetting, EngineFailed

if TYPE_CHECKING:
    from okno.core.calibration import Calibration
    from okno.core.machine import Machine

PANEL = "Measuring"


def calibrate(
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Threads to measure with [default: all usable cores].",
            rich_help_panel=PANEL, show_default=False,
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Time to take, in all.", rich_help_panel=PANEL),
    ] = BUDGET_S,
    show: Annotated[
        bool, typer.Option("--show", help="Show what was learnt before; measure nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:  # fmt: skip
    """Measure what this machine is fast at (90 s), for plans of any model; the result is kept.

    Best done while nothing else runs.
    """
    if show:
        _print(_known(threads), as_json=as_json)
    else:
        measure_and_keep(partial(_print, as_json=as_json), threads, budget)


def measure_and_keep(
    show: Callable[[Calibration], None] | None = None,
    threads: int | None = None,
    budget_s: float = BUDGET_S,
) -> None:
    """Measure this machine, `show` what was found, then keep it for plans. Nothing that goes wrong
    after the measurement costs its result. Raises what calibrate of okno.bench.calibrate raises.
    """
    from okno.bench.calibrate import calibrate as measure
    from okno.cli.progress import loading
    from okno.inspect.hardware.machine import this_machine
    from okno.store.calibrations import CalibrationKey, save_calibration
    from okno.store.database import Database

    machine = this_machine()
    with loading("Measuring this machine") as on_progress:
        found = measure(threads, budget_s, on_progress, fingerprint=machine.fingerprint)
    key = CalibrationKey(machine.fingerprint, found.engine, found.threads)
    try:
        if show is not None:
            show(found)
    finally:  # a reader that left the pipe costs no calibration
        is_kept = kept(lambda: save_calibration(Database(), key, found.to_json()))
    if is_kept:
        _learn_overhead(machine, found.engine)


def _learn_overhead(machine: Machine, engine: str) -> None:
    """What a worker with a small model holds beside the engine's buffers."""
    if sys.platform != "linux":  # elsewhere nothing tells a process's own memory apart
        return
    from okno.bench.worker_memory import measure_overhead
    from okno.store.database import Database
    from okno.store.overheads import save_overhead

    try:
        held = measure_overhead(machine).process_bytes
    except EngineFailed as error:
        remark(f"What a worker holds beside its model was not learnt: {error.message}")
        return
    kept(lambda: save_overhead(Database(), machine.fingerprint, engine, "process_bytes", held))


def _known(threads: int | None) -> Calibration:
    """What plans of this machine with this engine use, with so many threads if given."""
    from okno.advisor.learnt import best_calibration
    from okno.inspect.hardware.engine import engine_name
    from okno.inspect.hardware.machine import this_machine
    from okno.store.calibrations import list_calibrations
    from okno.store.database import Database

    machine, engine = this_machine(), engine_name()
    records = [
        record for record in list_calibrations(Database(), machine.fingerprint)
        if threads in (None, record.key.threads)
    ]  # fmt: skip
    found = best_calibration(records, engine, machine.cpu.usable_cores)
    if found is not None:
        return found
    with_threads = "" if threads is None else f" with {threads} threads"
    with_engine = f" with {engine}, only with another engine" if records else ""
    raise BadSetting(
        f"This machine was never measured{with_threads}{with_engine}. "
        "`okno calibrate` does it, in 90 s."
    )


def _print(calibration: Calibration, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(calibration.to_json(), indent=2))
        return
    from okno.cli.calibrate_table import print_calibration

    print_calibration(calibration)
