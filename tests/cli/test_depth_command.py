from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import pytest

from okno.cli import depth_progress
from okno.inspect.models import demo_model
from okno.plan.depth_document import from_document
from okno.store.database import Database
from okno.store.depth_curves import load_depth
from okno.store.identity import model_identity
from tests.cli.support import okno

SHORT = ("--max-tokens", "2000", "--judged-tokens", "300", "--kv-types", "none")


def depth(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return okno("depth", *args, OKNO_DATA_DIR=str(folder))


def test_people_get_curves_a_table_and_a_sentence(tmp_path: Path) -> None:
    done = depth(tmp_path, "demo", *SHORT[:-2], "--kv-types", "q8_0")
    assert done.returncode == 0, done.stderr
    assert "Loss by position" in done.stdout
    assert "late tokens by window" in done.stdout
    assert "1,024" in done.stdout
    assert "this text gains" in " ".join(done.stdout.lower().split())
    assert "q8_0" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_programs_get_json_and_the_store_keeps_the_same(tmp_path: Path) -> None:
    done = depth(tmp_path, "demo", *SHORT, "--json")
    told = json.loads(done.stdout)
    assert [window["ctx"] for window in told["windows"]] == [64, 128, 256, 512, 1024]
    assert told["in_words"]
    kept = load_depth(Database(tmp_path / "okno.db"), model_identity(demo_model().path))
    assert kept is not None
    curve = from_document(kept.document)
    assert curve is not None
    assert curve.windows[0].bits.value == told["windows"][0]["bits"]["value"]
    assert "Kept" in done.stderr


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
def test_the_plot_is_drawn_as_a_file(tmp_path: Path, name: str, begins: bytes) -> None:
    done = depth(tmp_path, "demo", *SHORT, "--plot", str(tmp_path / name))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_store_that_cannot_be_used_costs_no_result(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "okno.db")
    other.execute("CREATE TABLE notes (text)")
    other.close()
    done = depth(tmp_path, "demo", *SHORT, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["windows"]
    assert "Not kept" in done.stderr


def test_a_plot_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.svg").mkdir()
    done = depth(tmp_path, "demo", *SHORT, "--json", "--plot", str(tmp_path / "a.svg"))
    assert done.returncode == 2
    assert "a.svg cannot be written" in done.stderr
    assert json.loads(done.stdout)["windows"]
    assert load_depth(Database(tmp_path / "okno.db"), model_identity(demo_model().path))


def test_its_window_has_nothing_to_do_with_a_pool_for_serving(tmp_path: Path) -> None:
    """The refusal is depth's own: 5,000 tokens are not compared with OKNO_KV_POOL."""
    done = okno("depth", "demo", "--ctx", "5000", OKNO_DATA_DIR=str(tmp_path), OKNO_KV_POOL="64")
    assert "trained for 1,024" in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--text", "nowhere.txt"), "No such file"),
        (("--text", "okno/data/demo.gguf"), "not UTF-8"),
        (("--windows", "64,many"), "give numbers of tokens"),
        (("--windows", "٦٤"), "give numbers of tokens"),
        (("--kv-types", "q9"), "cannot be compared with f16"),
        (("--plot", "curve.jpg"), "not drawn"),
        (("--plot", "no/such/folder/a.svg"), "there is no folder"),
        (("--reference", "nothing"), "There is no model"),
        (("--ctx", "5000"), "trained for 1,024"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    done = depth(tmp_path, "demo", *args)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_text_may_come_through_a_pipe(tmp_path: Path) -> None:
    done = depth(tmp_path, "demo", "--text", "-")
    assert "--text - is empty" in done.stderr


def test_on_a_terminal_every_stage_has_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with depth_progress.progress("demo") as report:
        report("load", 0.5)
        report("pass", 0.1)
        report("pass", 1.0)
    assert capsys.readouterr().out == ""
