"""Measured peaks, kept in a file so that a run that was broken off goes on where it was.

Only what was measured is kept, with where and by what: predictions are made anew for every report.
Older lines also hold the prediction of their day, which is not read.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import msgspec

ENGINE = "llama-cpp-python"


class Measured(msgspec.Struct, frozen=True):
    """What a worker held for the case `name`, RssAnon + RssShmem: at its peak, and when ready.
    seconds: all of it. machine: its fingerprint; engine_version: of ENGINE; revision: of okno; None
    in lines of before these were kept."""

    name: str
    peak_bytes: int
    loaded_bytes: int
    seconds: float
    machine: str | None = None
    engine_version: str | None = None
    revision: str | None = None


def engine_version() -> str:
    """Of the engine that is installed here."""
    return version(ENGINE)


def kept_peaks(path: Path, machine: str) -> dict[str, Measured]:
    """By name, the last that was measured on `machine` with the installed engine, as far as its
    line says; none without such a file."""
    if not path.exists():
        return {}
    lines = (msgspec.json.decode(line, type=Measured) for line in path.read_bytes().splitlines())
    engine = engine_version()
    return {
        one.name: one
        for one in lines
        if one.machine in (None, machine) and one.engine_version in (None, engine)
    }


def keep_peak(path: Path, measured: Measured) -> None:
    """Add a line."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(measured) + b"\n")
