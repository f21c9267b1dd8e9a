"""Learn what this machine is fast at: `calibrate` runs the measurements in a process of its own."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace

from okno.core.calibration import Calibration, from_json
from okno.core.errors import BadSetting, EngineFailed
from okno.core.python import module_command
from okno.engines.process import worker_environment
from okno.inspect.cpu import usable_cores

BUDGET_S = 90.0  # all shapes of heads on two cores; a minute left out seven of nineteen
LEAST_BUDGET_S = 5.0
STARTUP_SHARE = 0.1  # of the budget, for starting the process and what a last round overruns
OVERRUN = 4.0  # of the budget: a process that takes longer hangs


def calibrate(
    threads: int | None = None,
    budget_s: float = BUDGET_S,
    on_progress: Callable[[float], None] = lambda _: None,
    *,
    fingerprint: str = "",
) -> Calibration:
    """Measure this machine with `threads` (None: all usable cores) in about budget_s seconds.

    on_progress: called with 0..1. fingerprint: of the machine, for the record. Raises BadSetting
    for a budget below LEAST_BUDGET_S or threads below 1, EngineFailed when the measuring process
    dies or hangs.
    """
    threads = usable_cores() if threads is None else threads
    if threads < 1:
        raise BadSetting(f"threads is {threads}; give at least 1.", threads=threads)
    if not budget_s >= LEAST_BUDGET_S:
        raise BadSetting(
            f"A calibration of {budget_s:g} s would measure too little; give at least "
            f"{LEAST_BUDGET_S:g} s (the default is {BUDGET_S:g}).",
            budget_s=budget_s,
        )
    calibration = _measured(_command(threads, budget_s * (1 - STARTUP_SHARE)), on_progress,
                            OVERRUN * budget_s)  # fmt: skip
    return replace(calibration, machine=fingerprint)


def _command(threads: int, budget_s: float) -> list[str]:
    return module_command("okno.bench.calibrate_child", str(threads), str(budget_s))


def _measured(
    command: list[str], on_progress: Callable[[float], None], timeout_s: float
) -> Calibration:
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=worker_environment(),
    )
    watch = threading.Timer(timeout_s, child.kill)
    watch.start()
    try:
        return _listen(child, on_progress)
    finally:
        watch.cancel()
        if child.poll() is None:
            child.kill()
        child.communicate()


def _listen(child: subprocess.Popen[str], on_progress: Callable[[float], None]) -> Calibration:
    assert child.stdout is not None
    for line in child.stdout:
        message = json.loads(line)
        if "calibration" in message:
            return from_json(message["calibration"])
        on_progress(message["progress"])
    _, complaint = child.communicate()
    lines = complaint.strip().splitlines()
    raise EngineFailed(
        f"The measuring process ended with status {child.returncode}: "
        f"{lines[-1] if lines else 'it said nothing'}. Free memory, or give another --threads.",
    )
