"""A real `okno serve` process for tests: real worker, real sockets, the demo model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import httpx
import psutil


@dataclass(frozen=True)
class RealServer:
    """A ready server. `output` is everything it printed until it was ready."""

    url: str
    process: subprocess.Popen[str]
    output: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def worker(self) -> psutil.Process:
        """The process that holds the model."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(c for c in children if "okno.engines.worker" in " ".join(c.cmdline()))

    def counters(self) -> dict[str, float]:
        """The unlabelled metrics, without the prefix."""
        text = httpx.get(f"{self.url}/metrics").text
        return {k: float(v) for k, v in re.findall(r"^okno_(\w+) (\S+)$", text, re.MULTILINE)}

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def balanced(counters: dict[str, float]) -> bool:
    """submitted = completed + cancelled + rejected + failed + in flight."""
    ends = ("completed_total", "cancelled_total", "rejected_total", "failed_total", "in_flight")
    return counters["submitted_total"] == sum(counters[name] for name in ends)


@contextmanager
def serving(*flags: str, program: tuple[str, ...] = ("-m", "okno.cli.main", "serve"),
            environment: dict[str, str] | None = None) -> Iterator[RealServer]:  # fmt: skip
    """Start the program with `flags` on a free port; yields when it says that it is ready."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OKNO_")}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *program, "--port", "0", *flags],
            stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True,
            env={**inherited, "OKNO_CONFIG": "none", **(environment or {})},
        )  # fmt: skip
        try:
            yield _when_ready(process, errors)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _when_ready(process: subprocess.Popen[str], errors: IO[str]) -> RealServer:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if ready := re.search(r"ready: (http://\S+)", line):
            lines += [process.stdout.readline(), process.stdout.readline()]  # window, memory
            errors.seek(0)
            return RealServer(ready[1], process, "".join(lines) + errors.read())
    errors.seek(0)
    raise AssertionError(f"the server ended before it was ready: {''.join(lines)}{errors.read()}")
