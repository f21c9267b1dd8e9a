"""The file itself: made, migrated, shared, damaged, foreign. Always real SQLite."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from okno.config.load import load
from okno.core.errors import StoreUnusable
from okno.store import database as database_module
from okno.store.calibrations import CalibrationKey, list_calibrations, save_calibration
from okno.store.database import APPLICATION_ID, Database
from okno.store.overheads import load_overheads, save_overhead
from okno.store.paths import DATA_DIR, data_folder, database_path
from okno.store.schema import MIGRATIONS

KEY = CalibrationKey("machine", "engine 1", 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "okno.db"


def pragma(path: Path, name: str) -> object:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]
    finally:
        connection.close()


def test_it_lies_in_the_user_data_folder_unless_told_otherwise(tmp_path: Path) -> None:
    assert database_path({"OKNO_DATA_DIR": str(tmp_path)}) == tmp_path / "okno.db"
    assert data_folder({}).name == "okno"
    assert data_folder({"OKNO_DATA_DIR": ""}) == data_folder({})
    assert data_folder({"OKNO_DATA_DIR": "~/x"}) == Path.home() / "x"


def test_the_variable_is_known_to_the_settings() -> None:
    assert load([], {DATA_DIR: "/x"}).notes == ()


def test_reading_what_was_never_kept_makes_no_file(path: Path) -> None:
    assert list_calibrations(Database(path)) == []
    assert load_overheads(Database(path), "m", "e") == {}
    assert not path.parent.exists()


def test_the_first_write_makes_folder_file_and_newest_schema(path: Path) -> None:
    save_calibration(Database(path), KEY, {})
    assert pragma(path, "user_version") == len(MIGRATIONS)
    assert pragma(path, "application_id") == APPLICATION_ID
    assert pragma(path, "journal_mode") == "wal"


def test_every_table_is_strict(path: Path) -> None:
    save_calibration(Database(path), KEY, {})
    connection = sqlite3.connect(path)
    tables = connection.execute("PRAGMA table_list").fetchall()
    connection.close()
    ours = [row for row in tables if row[0] == "main" and not row[1].startswith("sqlite_")]
    assert len(ours) == 5
    assert all(strict for *_, strict in ours)


def test_an_older_file_is_brought_up_with_what_it_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_calibration(Database(path), KEY, {"kept": 1})
    more = (*MIGRATIONS, ("CREATE TABLE later (name TEXT) STRICT",))
    monkeypatch.setattr(database_module, "MIGRATIONS", more)
    (record,) = list_calibrations(Database(path))
    assert record.document == {"kept": 1}
    assert pragma(path, "user_version") == len(more)


def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_calibration(Database(path), KEY, {"kept": 1})
    broken = (*MIGRATIONS, ("CREATE TABLE later (name TEXT) STRICT", "CREATE NONSENSE"))
    monkeypatch.setattr(database_module, "MIGRATIONS", broken)
    with pytest.raises(StoreUnusable, match="NONSENSE"):
        list_calibrations(Database(path))
    monkeypatch.undo()
    assert pragma(path, "user_version") == len(MIGRATIONS)
    assert len(list_calibrations(Database(path))) == 1


def test_a_newer_file_is_left_alone(path: Path) -> None:
    save_calibration(Database(path), KEY, {})
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreUnusable, match=r"newer okno \(schema 99; this one knows 2\)"):
        save_calibration(Database(path), KEY, {})
    assert pragma(path, "user_version") == 99


@pytest.mark.parametrize("content", [b"this is no database at all" * 99, b"SQLite format 3\0" * 80])
def test_a_damaged_file_is_named_and_never_touched(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for use in (
        lambda: list_calibrations(Database(path)),
        lambda: save_calibration(Database(path), KEY, {}),
    ):
        with pytest.raises(StoreUnusable) as refused:
            use()
        assert str(path) in refused.value.message
        assert "Rename the file" in refused.value.message
    assert path.read_bytes() == content


def test_a_page_that_was_overwritten_is_damage_as_well(path: Path) -> None:
    for threads in range(1, 60):
        save_calibration(Database(path), CalibrationKey("m", "e", threads), {"long": "x" * 400})
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match="damaged; nothing was changed"):
        list_calibrations(Database(path))


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match="another program"):
        save_calibration(Database(path), KEY, {})
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert list_calibrations(Database(path)) == []
    save_calibration(Database(path), KEY, {})
    assert len(list_calibrations(Database(path))) == 1


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="OKNO_DATA_DIR"):
        save_calibration(Database(tmp_path / "file" / "okno.db"), KEY, {})


def test_a_folder_in_its_place_is_an_error_that_says_so(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreUnusable, match="unable to open"):
        list_calibrations(Database(path))


def test_a_writer_that_stays_is_waited_for_and_then_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_calibration(Database(path), KEY, {"old": 1})
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnusable, match="Another process kept it busy"):
        save_calibration(Database(path), KEY, {"new": 1})
    assert len(list_calibrations(Database(path))) == 1, "readers go on"
    connection.rollback()
    connection.close()


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    database = Database(path)

    def half_done() -> None:
        with database.writing() as connection:
            connection.execute("INSERT INTO overheads VALUES ('m', 'e', 'n', 1.0, 0.0)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    assert load_overheads(database, "m", "e") == {}


def _write(path: Path, worker: int, count: int) -> None:
    for number in range(count):
        save_overhead(Database(path), "m", "e", f"{worker} {number}", number)


def test_processes_that_start_and_write_at_once_lose_nothing(path: Path) -> None:
    """The first to come makes the file while the others open it."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, number, 25)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(load_overheads(Database(path), "m", "e")) == 100


def test_many_that_make_the_same_file_at_once_agree(tmp_path: Path) -> None:
    for attempt in range(5):
        database = Database(tmp_path / str(attempt) / "okno.db")
        start = threading.Barrier(8)

        def make(number: int, database: Database = database, start=start) -> None:
            start.wait()
            save_overhead(database, "m", "e", str(number), number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(make, range(8)))
        assert len(load_overheads(database, "m", "e")) == 8


def test_a_writer_that_is_killed_in_a_transaction_leaves_the_file_whole(path: Path) -> None:
    save_overhead(Database(path), "m", "e", "kept", 1)
    code = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "from okno.store.database import Database\n"
        "with Database(Path(sys.argv[1])).writing() as connection:\n"
        '    connection.execute("DELETE FROM overheads")\n'
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert load_overheads(Database(path), "m", "e") == {"kept": 1}
    save_overhead(Database(path), "m", "e", "more", 2)


def test_a_place_that_may_not_be_looked_at_is_said_and_not_a_traceback(tmp_path: Path) -> None:
    nowhere = Database(tmp_path / ("x" * 300) / "okno.db")  # as root any folder may be
    with pytest.raises(StoreUnusable, match="too long"):
        list_calibrations(nowhere, "machine")
