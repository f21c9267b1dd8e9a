"""Depth curves: loss by position of a model on a text, as JSON documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from okno.store.database import Database
from okno.store.documents import Document, from_json, now_s, to_json


@dataclass(frozen=True, slots=True)
class DepthRecord:
    """model: identity.model_identity of the file. text: identity of the text. made_s: when, in
    seconds since 1970."""

    model: str
    text: str
    document: dict[str, Any]
    made_s: float


def save_depth(database: Database, model: str, text: str, document: Document) -> None:
    """Keep a curve; it takes the place of an older one of the same model and text."""
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO depth_curves (model, text, made_s, document) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET made_s = excluded.made_s, document = excluded.document",
            (model, text, now_s(), to_json(document)),
        )


def load_depth(database: Database, model: str, text: str | None = None) -> DepthRecord | None:
    """The curve on that text; without a text the model's newest. None when there is none."""
    found = [one for one in list_depths(database, model) if text in (None, one.text)]
    return found[0] if found else None


def list_depths(database: Database, model: str) -> list[DepthRecord]:
    """The model's curves, newest first."""
    with database.reading() as connection:
        if connection is None:
            return []
        rows = connection.execute(
            "SELECT model, text, document, made_s FROM depth_curves "
            "WHERE model = ? ORDER BY made_s DESC, text",
            (model,),
        ).fetchall()
    return [DepthRecord(name, text, from_json(doc), made_s) for name, text, doc, made_s in rows]


def delete_depth(database: Database, model: str, text: str) -> bool:
    """Whether there was one."""
    with database.writing() as connection:
        done = connection.execute(
            "DELETE FROM depth_curves WHERE model = ? AND text = ?", (model, text)
        )
        return done.rowcount > 0
