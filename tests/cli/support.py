"""Running okno as people do: a process with a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OKNO = [sys.executable, "-m", "okno.cli.main"]
SERVER_PY = [sys.executable, str(ROOT / "server.py")]


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without OKNO_* variables and settings files, plus `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OKNO_")}
    return {**kept, "COLUMNS": "80", "OKNO_CONFIG": "none", **more}


def okno(*args: str, program: list[str] = OKNO, **environment: str) -> subprocess.CompletedProcess:
    """Run to the end; stdin is empty."""
    return subprocess.run(
        [*program, *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=clean_environment(**environment),
        cwd=ROOT,
        check=False,
    )
