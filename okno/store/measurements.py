"""Figures of windows that were really run: written by `tune` and `bench`, shown as `measured`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from okno.core.load import Load
from okno.core.plan import Figure
from okno.core.window import Window
from okno.store.database import Database
from okno.store.documents import from_json, now_s, to_json


@dataclass(frozen=True, slots=True)
class Measured:
    """figures: by the names of core.plan.SpeedPlan's fields (`total_tok_s`) or, with what they
    were measured at, such as `user_tok_s@2048`. made_s: of the oldest of them, since 1970."""

    load: Load
    figures: dict[str, Figure]
    made_s: float


def save_measured(
    database: Database,
    machine: str,
    engine: str,
    model: str,
    load: Load,
    figures: Mapping[str, Figure],
) -> None:
    """Keep the figures of a load; each takes the place of an older one of its name.

    machine: Machine.fingerprint. model: identity.model_identity of the file. Raises ValueError for
    a figure outside its own interval, or NaN.
    """
    for name, figure in figures.items():
        if not figure.low <= figure.value <= figure.high:
            raise ValueError(f"{name} is {figure}")
    key, made_s = (machine, engine, model, to_json(asdict(load))), now_s()
    rows = [(*key, name, f.value, f.low, f.high, made_s) for name, f in figures.items()]
    with database.writing() as connection:
        connection.executemany(
            "INSERT INTO measurements "
            "(machine, engine, model, load, figure, value, low, high, made_s) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, "
            "low = excluded.low, high = excluded.high, made_s = excluded.made_s",
            rows,
        )


def load_measured(database: Database, machine: str, engine: str, model: str) -> list[Measured]:
    """Every load of that model that was run here. A load of a later okno, which this one cannot
    read, is left out."""
    with database.reading() as connection:
        if connection is None:
            return []
        rows = connection.execute(
            "SELECT load, figure, value, low, high, made_s FROM measurements "
            "WHERE machine = ? AND engine = ? AND model = ? ORDER BY load, figure",
            (machine, engine, model),
        ).fetchall()
    by_load: dict[str, list[tuple[Any, ...]]] = {}
    for text, *rest in rows:
        by_load.setdefault(text, []).append(tuple(rest))
    found = ((load_from(from_json(text)), rest) for text, rest in by_load.items())
    return [_measured(load, rest) for load, rest in found if load is not None]


def delete_measured(database: Database, machine: str, model: str | None = None) -> int:
    """Forget a machine's figures, of one model or of all; how many there were."""
    with database.writing() as connection:
        return connection.execute(
            "DELETE FROM measurements WHERE machine = ?1 AND (?2 IS NULL OR model = ?2)",
            (machine, model),
        ).rowcount


def load_from(document: Mapping[str, Any]) -> Load | None:
    """The Load of a document; None when its fields are not those of ours."""
    try:
        return Load(**{**document, "window": Window(**document["window"])})
    except (TypeError, KeyError):
        return None


def _measured(load: Load, rows: list[tuple[Any, ...]]) -> Measured:
    figures = {name: Figure(v, low, high, "measured") for name, v, low, high, _ in rows}
    return Measured(load, figures, min(row[-1] for row in rows))
