"""What serving a model has taught about its step times, as JSON documents."""

from __future__ import annotations

from typing import Any

from okno.store.database import Database
from okno.store.documents import Document, from_json, now_s, to_json


def save_refinement(
    database: Database, machine: str, engine: str, model: str, document: Document
) -> None:
    """Keep it in the place of an older one of the same machine, engine and model."""
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO refinements (machine, engine, model, made_s, document) "
            "VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET made_s = excluded.made_s, document = excluded.document",
            (machine, engine, model, now_s(), to_json(document)),
        )


def load_refinement(
    database: Database, machine: str, engine: str, model: str
) -> dict[str, Any] | None:
    """None when there is none."""
    with database.reading() as connection:
        if connection is None:
            return None
        row = connection.execute(
            "SELECT document FROM refinements WHERE machine = ? AND engine = ? AND model = ?",
            (machine, engine, model),
        ).fetchone()
    return from_json(row[0]) if row else None
