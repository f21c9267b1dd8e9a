"""The peak memory of a worker process at the end of its window, and of one with a small model."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from okno.core.errors import EngineFailed
from okno.core.load import Load
from okno.core.machine import Machine
from okno.core.python import module_command
from okno.core.window import Window
from okno.engines.process import worker_environment
from okno.engines.protocol import WorkerOptions
from okno.inspect.header import read_header
from okno.inspect.memory import parse_own
from okno.inspect.models import demo_model
from okno.plan.memory import Overhead, predict_memory

POLL_S = 0.02
TIMEOUT_S = 3600.0
SMALL_CTX = 512


@dataclass(frozen=True, slots=True)
class Peak:
    """RssAnon + RssShmem. peak_bytes: the most of all moments; loaded_bytes: when ready;
    full_bytes: after the last step. seconds: all of it."""

    peak_bytes: int
    loaded_bytes: int
    full_bytes: int
    seconds: float


def worker_peak(options: WorkerOptions, timeout_s: float = TIMEOUT_S) -> Peak:
    """Run `okno.bench.full_context` with `options` and watch it. Linux only.

    Raises EngineFailed with the end of its stderr when it fails or takes too long.
    """
    started = time.monotonic()
    command = module_command("okno.bench.full_context")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=worker_environment(),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.msgpack.encode(options))
            process.stdin.close()
        peak = _watch(process, started + timeout_s)
        assert process.stdout is not None
        assert process.stderr is not None
        stages = dict(line.split() for line in process.stdout.read().decode().splitlines())
        said = process.stderr.read().decode(errors="replace")
    if process.returncode != 0 or "full" not in stages:
        raise EngineFailed(
            f"The worker with {options.name} failed (exit status {process.returncode}): "
            f"{said.strip()[-500:] or 'no message'}"
        )
    loaded, full = int(stages["loaded"]), int(stages["full"])
    return Peak(max(peak, loaded, full), loaded, full, time.monotonic() - started)


def measure_overhead(machine: Machine) -> Overhead:
    """What a worker holds here beside the engine's buffers: one with the model that ships, taken to
    the end of a small window (two seconds). Linux only; raises EngineFailed when it fails."""
    path = demo_model().path
    options = WorkerOptions(str(path), "overhead", batch_size=1, ctx=SMALL_CTX)
    peak = worker_peak(options)
    load = Load(Window(1, SMALL_CTX, SMALL_CTX))
    without = predict_memory(read_header(path), load, machine, Overhead(process_bytes=0))
    return Overhead(process_bytes=max(0, peak.peak_bytes - without.devices[0].parts.needed_bytes))


def _watch(process: subprocess.Popen[bytes], deadline: float) -> int:
    """The most it held at any look."""
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            peak = max(peak, parse_own(status.read_text(encoding="utf-8")))
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(POLL_S)
    return peak
