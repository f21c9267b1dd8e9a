"""The SQLite file: opened, brought to the newest schema, and never deleted or replaced.

Every operation opens a connection of its own, so that any thread and any number of processes may
use a Database; SQLite's write-ahead log lets readers go on while one process writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from okno.core.errors import StoreUnusable
from okno.store.paths import database_path
from okno.store.schema import MIGRATIONS

BUSY_TIMEOUT_S = 10.0
OLDEST_SQLITE = (3, 37, 0)  # STRICT tables
APPLICATION_ID = 0x6F6B6E6F  # "okno" in the file's header, for file(1) and for us


class Database:
    """okno's database. path: of the file; its folder is made when something is written.

    Every method of what uses it may raise StoreUnusable.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or database_path()

    @property
    def is_there(self) -> bool:
        """Something was kept before. Raises StoreUnusable for a place that may not be looked at."""
        try:
            return self.path.exists()
        except OSError as error:  # a folder on the way may not be searched
            raise self._unusable(error.strerror or str(error)) from None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection to read with; None while there is no file: nothing was ever kept."""
        if not self.is_there:
            yield None
            return
        with self._connection() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is kept, or none."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from None
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise self._unusable(f"this Python has SQLite {sqlite3.sqlite_version}, too old")
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            self._prepare(connection)
            yield connection
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from None
        finally:
            if connection is not None:
                connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version, is_foreign = _look(connection)
        if is_foreign:
            raise StoreUnusable(
                f"{self.path} is a database of another program. okno leaves it as it is; set "
                "OKNO_DATA_DIR to another folder.",
                path=str(self.path),
            )
        if version > len(MIGRATIONS):
            raise StoreUnusable(
                f"{self.path} was written by a newer okno (schema {version}; this one knows "
                f"{len(MIGRATIONS)}). Use that version, or set OKNO_DATA_DIR to another folder.",
                path=str(self.path),
            )
        connection.execute("PRAGMA synchronous = NORMAL")
        if version < len(MIGRATIONS):
            _to_wal(connection)
            _migrate(connection)

    def _unusable(self, reason: str) -> StoreUnusable:
        return StoreUnusable(
            f"okno's database {self.path} cannot be used: {reason}. {_advice(reason)}",
            path=str(self.path),
        )


def _advice(reason: str) -> str:
    """What to do about SQLite's reason."""
    low = reason.lower()
    if "too old" in low:
        return "okno needs SQLite 3.37 or newer; a newer Python brings it."
    if "locked" in low or "busy" in low:
        return "Another process kept it busy; try again when that one is done."
    if "malformed" in low or "not a database" in low or "no such table" in low:
        return (
            "The file is damaged; nothing was changed in it. It holds what okno learnt about this "
            "machine. Rename the file (and those beside it that end in -wal and -shm) to keep it, "
            "and okno starts a new one: `okno calibrate` learns again."
        )
    return (
        "Check that its folder is there, may be written and has room, or set OKNO_DATA_DIR to "
        "another folder."
    )


def _to_wal(connection: sqlite3.Connection) -> None:
    """The write-ahead log is a property of the file, set once; while another process sets it
    SQLite says `locked` at once, and either way it is set."""
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise


def _migrate(connection: sqlite3.Connection) -> None:
    """From whatever version to the newest, one process at a time, all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(_pragma(connection, "user_version"), len(MIGRATIONS)):
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _look(connection: sqlite3.Connection) -> tuple[int, bool]:
    """The schema's version, and whether the file is another program's: tables without our mark.
    One transaction: another process may be making the file right now."""
    connection.execute("BEGIN")
    version = _pragma(connection, "user_version")
    is_marked = _pragma(connection, "application_id") == APPLICATION_ID
    has_tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    connection.execute("COMMIT")
    return version, has_tables and not is_marked


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
