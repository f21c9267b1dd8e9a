"""How okno starts its own modules as processes of the same Python."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module`. -P: nothing is imported from the current folder, which
    may be that of a downloaded model; `python -m` would look there before anywhere else."""
    return [sys.executable, "-P", "-m", module, *arguments]


def import_path() -> str:
    """PYTHONPATH of a process that imports what this one does."""
    package = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([package, *filter(None, sys.path)])
