"""Small facts learnt once per machine and engine, such as `process_bytes`."""

from __future__ import annotations

from okno.store.database import Database
from okno.store.documents import now_s


def save_overhead(database: Database, machine: str, engine: str, name: str, value: float) -> None:
    """Keep a number; a newer one takes its place."""
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO overheads (machine, engine, name, value, learnt_s) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET value = excluded.value, learnt_s = excluded.learnt_s",
            (machine, engine, name, float(value), now_s()),
        )


def load_overheads(database: Database, machine: str, engine: str) -> dict[str, float]:
    """All that is known, by name."""
    with database.reading() as connection:
        if connection is None:
            return {}
        return dict(
            connection.execute(
                "SELECT name, value FROM overheads WHERE machine = ? AND engine = ?",
                (machine, engine),
            ).fetchall()
        )


def delete_overheads(database: Database, machine: str) -> int:
    """Forget a machine's; how many there were."""
    with database.writing() as connection:
        return connection.execute("DELETE FROM overheads WHERE machine = ?", (machine,)).rowcount
