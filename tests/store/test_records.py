"""What is kept: calibrations, overheads, measurements, depth curves, identities."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okno.core.errors import ModelUnusable
from okno.core.load import Load
from okno.core.plan import Figure
from okno.core.window import Window
from okno.store.calibrations import (
    CalibrationKey,
    delete_calibration,
    list_calibrations,
    load_calibration,
    save_calibration,
)
from okno.store.database import Database
from okno.store.depth_curves import delete_depth, list_depths, load_depth, save_depth
from okno.store.identity import model_identity, text_identity
from okno.store.measurements import delete_measured, load_from, load_measured, save_measured
from okno.store.overheads import delete_overheads, load_overheads, save_overhead
from okno.store.refinements import load_refinement, save_refinement

KEY = CalibrationKey("0123456789abcdef", "llama-cpp-python 0.3.36", 2)
LOAD = Load(Window(4, 4096, 16384, "q8_0"), mmap=True)
FIGURE = Figure(90.0, 80.0, 100.0)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "okno.db")


# Calibrations


def test_a_calibration_comes_back_as_it_went_in(database: Database) -> None:
    document = {"curve": [1, 2.5, None], "text": "окно", "nested": {"a": True}}
    save_calibration(database, KEY, document, made_s=1000.5)
    record = load_calibration(database, KEY)
    assert record is not None
    assert (record.key, record.document, record.made_s) == (KEY, document, 1000.5)


@pytest.mark.parametrize(
    "other",
    [replace(KEY, machine="f" * 16), replace(KEY, engine="llama-cpp-python 1"),
     replace(KEY, threads=1)],
)  # fmt: skip
def test_another_machine_engine_or_thread_count_is_another_record(
    database: Database, other: CalibrationKey
) -> None:
    save_calibration(database, KEY, {"a": 1})
    assert load_calibration(database, other) is None
    save_calibration(database, other, {"a": 2})
    assert len(list_calibrations(database)) == 2


def test_a_new_calibration_takes_the_place_of_the_old(database: Database) -> None:
    save_calibration(database, KEY, {"run": 1}, made_s=1)
    save_calibration(database, KEY, {"run": 2}, made_s=2)
    (record,) = list_calibrations(database)
    assert (record.document, record.made_s) == ({"run": 2}, 2)


def test_records_are_listed_newest_first_and_by_machine(database: Database) -> None:
    for made_s, threads in ((1, 1), (3, 3), (2, 2)):
        save_calibration(database, replace(KEY, threads=threads), {}, made_s=made_s)
    save_calibration(database, replace(KEY, machine="other"), {}, made_s=9)
    assert [r.key.threads for r in list_calibrations(database, KEY.machine)] == [3, 2, 1]
    assert len(list_calibrations(database)) == 4


def test_deleting_says_whether_there_was_one(database: Database) -> None:
    save_calibration(database, KEY, {})
    assert delete_calibration(database, KEY)
    assert not delete_calibration(database, KEY)


def test_a_document_with_infinity_is_refused_before_it_is_kept(database: Database) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_calibration(database, KEY, {"a": math.inf})
    assert list_calibrations(database) == []


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner,
                      max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(document=st.dictionaries(st.sampled_from(["a", "б", "c d"]), plain))
def test_any_document_comes_back(database: Database, document: dict[str, object]) -> None:
    save_calibration(database, KEY, document)
    record = load_calibration(database, KEY)
    assert record is not None
    assert record.document == document


# Overheads


def test_overheads_are_numbers_by_name(database: Database) -> None:
    save_overhead(database, "m", "e", "process_bytes", 57_000_000)
    save_overhead(database, "m", "e", "process_bytes", 58_000_000)
    save_overhead(database, "m", "e", "context_s", 0.008)
    save_overhead(database, "m", "other", "process_bytes", 1)
    assert load_overheads(database, "m", "e") == {"process_bytes": 58e6, "context_s": 0.008}
    assert delete_overheads(database, "m") == 3
    assert load_overheads(database, "m", "e") == {}


# Measurements


def test_figures_of_a_load_come_back_as_measured(database: Database) -> None:
    save_measured(database, "m", "e", "model", LOAD, {"total_tok_s": FIGURE})
    (found,) = load_measured(database, "m", "e", "model")
    assert found.load == LOAD
    assert found.figures == {"total_tok_s": replace(FIGURE, kind="measured")}


def test_figures_are_kept_by_load_and_name(database: Database) -> None:
    other = replace(LOAD, window=replace(LOAD.window, batch_size=8))
    save_measured(database, "m", "e", "model", LOAD, {"total_tok_s": FIGURE, "ttft_s": FIGURE})
    save_measured(database, "m", "e", "model", LOAD, {"ttft_s": Figure(1, 1, 1)})
    save_measured(database, "m", "e", "model", other, {"ttft_s": FIGURE})
    by_batch = {
        f.load.window.batch_size: f.figures for f in load_measured(database, "m", "e", "model")
    }
    assert by_batch[4]["ttft_s"].value == 1
    assert by_batch[4]["total_tok_s"].value == 90
    assert by_batch[8].keys() == {"ttft_s"}


@pytest.mark.parametrize("key", [("x", "e", "model"), ("m", "x", "model"), ("m", "e", "x")])
def test_figures_hold_for_one_machine_engine_and_model(
    database: Database, key: tuple[str, str, str]
) -> None:
    save_measured(database, "m", "e", "model", LOAD, {"ttft_s": FIGURE})
    assert load_measured(database, *key) == []


@pytest.mark.parametrize("wrong", [Figure(1, 2, 3), Figure(math.nan, 0, 1)])
def test_a_figure_outside_its_interval_is_refused(database: Database, wrong: Figure) -> None:
    with pytest.raises(ValueError, match="ttft_s"):
        save_measured(database, "m", "e", "model", LOAD, {"ttft_s": wrong})


def test_a_load_of_a_later_okno_is_left_out(database: Database) -> None:
    save_measured(database, "m", "e", "model", LOAD, {"ttft_s": FIGURE})
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO measurements SELECT machine, engine, model, ?, figure, value, low, high, "
            "made_s FROM measurements",
            ('{"window": {}, "new_field": 1}',),
        )
    assert [found.load for found in load_measured(database, "m", "e", "model")] == [LOAD]
    assert load_from({"window": 3}) is None


def test_figures_can_be_forgotten(database: Database) -> None:
    for model in ("one", "two"):
        save_measured(database, "m", "e", model, LOAD, {"ttft_s": FIGURE})
    assert delete_measured(database, "m", "one") == 1
    assert delete_measured(database, "m") == 1


# Depth


def test_depth_curves_are_kept_by_model_and_text(database: Database) -> None:
    save_depth(database, "model", "text", {"loss": [3, 2]})
    save_depth(database, "model", "other", {"loss": [4]})
    save_depth(database, "model", "text", {"loss": [3, 1]})
    found = load_depth(database, "model", "text")
    assert found is not None
    assert found.document == {"loss": [3, 1]}
    assert {one.text for one in list_depths(database, "model")} == {"text", "other"}
    assert load_depth(database, "model") is not None
    assert load_depth(database, "stranger") is None
    assert delete_depth(database, "model", "other")
    assert load_depth(database, "model", "other") is None


# Identities


def test_a_model_is_its_bytes_not_its_name(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    one, two, three = (tmp_path / name for name in ("one.gguf", "two.gguf", "three.gguf"))
    one.write_bytes(content)
    two.write_bytes(content)
    three.write_bytes(content[:-1] + b"\x00")
    assert model_identity(one) == model_identity(two)
    assert len({model_identity(one), model_identity(three)}) == 2


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_small_files_have_identities(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"x" * size)
    assert len(model_identity(path)) == 16


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="No such file"):
        model_identity(tmp_path / "none.gguf")


def test_texts_have_identities() -> None:
    assert text_identity("окно") == text_identity("окно") != text_identity("окно ")


# Refinements


def test_the_newest_lesson_of_a_machine_engine_and_model_is_kept(database: Database) -> None:
    assert load_refinement(database, "m", "e", "model") is None
    save_refinement(database, "m", "e", "model", {"groups": [[1.0]]})
    save_refinement(database, "m", "e", "model", {"groups": [[2.0]]})
    save_refinement(database, "m", "e", "other", {"groups": [[3.0]]})
    assert load_refinement(database, "m", "e", "model") == {"groups": [[2.0]]}
    assert load_refinement(database, "m", "another engine", "model") is None


def test_a_store_of_the_first_version_gains_the_table_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "okno.db"
    save_overhead(Database(path), "m", "e", "process_bytes", 7.0)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE refinements")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    save_refinement(Database(path), "m", "e", "model", {"groups": []})
    assert load_refinement(Database(path), "m", "e", "model") == {"groups": []}
    assert load_overheads(Database(path), "m", "e") == {"process_bytes": 7.0}
