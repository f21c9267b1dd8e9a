"""Calibration records: what was measured on a machine, by an engine version, with some threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from okno.store.database import Database
from okno.store.documents import Document, from_json, now_s, to_json


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """machine: core.machine.Machine.fingerprint. engine: its name, version and build
    (`llama-cpp-python 0.3.36 0a1b2c3d`; inspect/hardware/engine.py, engine_name)."""

    machine: str
    engine: str
    threads: int


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """made_s: when, in seconds since 1970."""

    key: CalibrationKey
    document: dict[str, Any]
    made_s: float


def save_calibration(
    database: Database, key: CalibrationKey, document: Document, made_s: float | None = None
) -> None:
    """Keep it; it takes the place of an older one of the same key."""
    made_s = now_s() if made_s is None else made_s
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO calibrations (machine, engine, threads, made_s, document) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET made_s = excluded.made_s, document = excluded.document",
            (key.machine, key.engine, key.threads, made_s, to_json(document)),
        )


def load_calibration(database: Database, key: CalibrationKey) -> CalibrationRecord | None:
    """The record of exactly that key; None when there is none."""
    found = [record for record in list_calibrations(database, key.machine) if record.key == key]
    return found[0] if found else None


def list_calibrations(database: Database, machine: str | None = None) -> list[CalibrationRecord]:
    """Newest first; of one machine or of all."""
    with database.reading() as connection:
        if connection is None:
            return []
        rows = connection.execute(
            "SELECT machine, engine, threads, document, made_s FROM calibrations "
            "WHERE ?1 IS NULL OR machine = ?1 ORDER BY made_s DESC, engine, threads",
            (machine,),
        ).fetchall()
    return [
        CalibrationRecord(CalibrationKey(name, engine, threads), from_json(document), made_s)
        for name, engine, threads, document, made_s in rows
    ]


def delete_calibration(database: Database, key: CalibrationKey) -> bool:
    """Whether there was one."""
    with database.writing() as connection:
        done = connection.execute(
            "DELETE FROM calibrations WHERE machine = ? AND engine = ? AND threads = ?",
            (key.machine, key.engine, key.threads),
        )
        return done.rowcount > 0
