from __future__ import annotations

import json
import sqlite3
import sys

import pytest

from okno.bench import calibrate as calibrate_module
from okno.bench import worker_memory
from okno.cli.app import run
from okno.cli.calibrate import measure_and_keep
from okno.cli.calibrate_table import print_calibration
from okno.core.calibration import Curve
from okno.core.errors import EngineFailed
from okno.inspect.hardware.engine import engine_name
from okno.inspect.hardware.machine import this_machine
from okno.plan.memory import Overhead
from okno.store.calibrations import CalibrationKey, save_calibration
from okno.store.database import Database
from okno.store.overheads import load_overheads
from tests.plan.speed_cases import calibration


@pytest.fixture(autouse=True)
def _own_store(monkeypatch, tmp_path):
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path))


@pytest.fixture
def measured(monkeypatch):
    """The measurements are those of a test; what was asked of them is kept."""
    asked = []

    def measure(threads, budget_s, on_progress, *, fingerprint):
        asked.append((threads, budget_s))
        on_progress(1.0)
        return calibration(engine=engine_name(), machine=fingerprint, threads=threads or 2)

    monkeypatch.setattr(calibrate_module, "calibrate", measure)
    monkeypatch.setattr(worker_memory, "measure_overhead", lambda _: Overhead(process_bytes=77))
    return asked


def test_nothing_measured_is_said_with_what_to_do(capsys):
    assert run(["calibrate", "--show"]) == 2
    assert "okno calibrate" in capsys.readouterr().err


def test_what_was_measured_is_kept_and_shown_again(measured, capsys):
    assert run(["calibrate", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert run(["calibrate", "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert measured == [(None, 90.0)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own memory")
def test_what_an_empty_worker_holds_is_learnt_too(measured):
    assert run(["calibrate"]) == 0
    kept = load_overheads(Database(), this_machine().fingerprint, engine_name())
    assert kept == {"process_bytes": 77}


def test_a_store_that_cannot_be_used_costs_no_calibration(measured, tmp_path, capsys):
    other = sqlite3.connect(tmp_path / "okno.db")
    other.execute("CREATE TABLE notes (text)")
    other.close()
    assert run(["calibrate", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["engine"] == engine_name()
    assert err.count("Not kept") == 1, "nor is a worker started whose memory could not be kept"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own memory")
def test_a_worker_that_fails_afterwards_costs_no_calibration(measured, monkeypatch, capsys):
    def failing(machine):
        raise EngineFailed("The worker with overhead failed.")

    monkeypatch.setattr(worker_memory, "measure_overhead", failing)
    assert run(["calibrate", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "The worker with overhead failed." in err
    assert run(["calibrate", "--show", "--json"]) == 0
    assert capsys.readouterr().out == out


def test_a_reader_that_left_the_pipe_costs_no_calibration(measured, monkeypatch, capsys):
    def gone(found):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        measure_and_keep(gone)
    assert run(["calibrate", "--show"]) == 0


def test_each_number_of_threads_is_kept_apart(measured, capsys):
    assert run(["calibrate", "--threads", "1", "--budget", "20"]) == 0
    assert measured == [(1, 20.0)]
    assert run(["calibrate", "--show", "--threads", "1"]) == 0
    assert run(["calibrate", "--show", "--threads", "3"]) == 2
    assert "3 threads" in capsys.readouterr().err


def test_what_another_engine_was_measured_at_is_not_shown_as_this_ones(measured, capsys):
    """Plans do not use it."""
    here = this_machine().fingerprint
    other = calibration(engine="llama-cpp-python 0.3.36 0a1b2c3d", machine=here)
    key = CalibrationKey(here, other.engine, 2)
    save_calibration(Database(), key, other.to_json() | {"version": 4}, made_s=9e9)
    assert run(["calibrate", "--show"]) == 2
    assert "only with another engine" in " ".join(capsys.readouterr().err.split())
    assert run(["calibrate"]) == 0
    capsys.readouterr()
    assert run(["calibrate", "--show", "--json"]) == 0, "it is newer by the clock"
    assert json.loads(capsys.readouterr().out)["engine"] == engine_name()


def test_the_table_marks_row_counts_that_are_worse_than_fewer(measured, capsys):
    assert run(["calibrate"]) == 0
    table = capsys.readouterr().out
    rates = {line.split()[0]: line.split()[1:] for line in table.splitlines() if "." in line}
    assert "Q4_0" in table
    assert all("↓" not in cell for cell in rates["4"])
    assert any("↓" in cell for cell in rates["6"])
    assert any("↓" in cell for cell in rates["33"]), "a block of 32 and one more"


def test_the_table_has_no_rows_that_were_not_measured(capsys):
    few = Curve((1, 4, 256), (1e-10, 2e-10, 9e-9), (0.0,) * 3)
    print_calibration(calibration(weights={"Q4_0": few}))
    told = capsys.readouterr().out
    shown = [line.split()[0] for line in told[: told.index("Attention")].splitlines() if line]
    assert [rows for rows in shown if rows.isdigit()] == ["1", "4", "256"]


def test_a_budget_too_small_is_a_usage_error(capsys):
    assert run(["calibrate", "--budget", "1"]) == 2
    assert "at least 5 s" in capsys.readouterr().err
