"""`okno tune` as it is typed and read, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from okno.bench import tune as tune_module
from okno.bench.tune import Run, Tuned, measured
from okno.bench.tune_load import Burst
from okno.cli.app import run
from okno.config.file import read_file
from okno.config.load import merge
from okno.config.settings import ServeSettings
from okno.plan.goals import Goal
from tests.cli.support import okno

FILE = Path("generation_config.yaml")


@dataclass
class Measuring:
    """What stands for the runs. goals: of each time it was asked; meanwhile: done during one."""

    goals: list[Goal] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None


@pytest.fixture(autouse=True)
def _no_okno_variables(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("OKNO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def measuring(monkeypatch) -> Measuring:
    """Nothing is run: the first candidate gives 100 tokens/s, the others get no turn."""
    told = Measuring()

    async def tune_model(model, chosen, goal, ctx_train, on_run):
        told.goals.append(goal)
        told.meanwhile()
        burst = Burst(chosen[0].load.window.batch_size, goal.prompt_tokens, 0.1, 100.0, 50)
        done = Run(chosen[0], burst, measured(chosen[0], burst))
        return Tuned(goal, (done,), done.measured, len(chosen) - 1, 1.0)

    monkeypatch.setattr(tune_module, "tune_model", tune_model)
    return told


def outcome(capsys, *flags: str) -> tuple[int, str, str]:
    code = run(["tune", "demo", "--ctx", "256", "--prompt-tokens", "100", *flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def saved() -> ServeSettings:
    """What a server without flags and variables makes of the file."""
    return merge([], {}, read_file(FILE)).settings


def test_tune_measures_keeps_and_saves(tmp_path):
    """The real thing: the demo model, two seconds a run; then plan shows what was measured."""
    data = {"OKNO_DATA_DIR": str(tmp_path / "data")}
    config = tmp_path / "mine.yaml"
    config.write_text("# my settings\ntemperature: 0.5\n")
    flags = ["--prompt-tokens", "32", "--ctx", "256", "--max-ttft", "60", "--min-tok-s", "0.1"]
    tuned = okno("tune", "demo", *flags, "--json", "--save", "--config", str(config), **data)
    assert tuned.returncode == 0, tuned.stderr
    told = json.loads(tuned.stdout)
    assert 1 <= len(told["runs"]) <= 6
    assert told["seconds"] < 180
    text = config.read_text()
    assert text.startswith("# my settings\n")
    assert re.search(rf"batch_size: {told['best']['batch_size']}\b", text)
    assert re.search(r"ctx: 256\b", text)
    planned = okno("plan", "demo", *flags, "--json", **data)
    windows = json.loads(planned.stdout)["windows"]
    assert {window["kv_type"] for window in windows} == {"f16"}
    kinds = {w["batch_size"]: w["speed"]["total_tok_s"]["kind"] for w in windows if w["speed"]}
    assert kinds[told["best"]["batch_size"]] == "measured"


def test_tune_wants_a_model_that_is_here(capsys):
    assert run(["tune", "saiga2_7b"]) == 1
    assert "is in okno's catalog: `okno pull IlyaGusev/saiga2_7b_" in capsys.readouterr().err


def test_the_goal_is_typed_or_of_the_environment_or_the_file(capsys, monkeypatch, measuring):
    FILE.write_text("load:\n  prefer: users\n  max_ttft: 70\n  min_tok_s: 0.1\n")
    monkeypatch.setenv("OKNO_MAX_TTFT", "80")
    monkeypatch.setenv("OKNO_MIN_TOK_S", "0.2")
    assert outcome(capsys, "--min-tok-s", "0.3")[0] == 0
    (goal,) = measuring.goals
    assert (goal.prefer, goal.max_ttft_s, goal.min_tok_s) == ("users", 80, 0.3)


def test_a_server_with_the_saved_file_loads_what_was_measured(capsys, monkeypatch, measuring):
    FILE.write_text("load:\n  kv_type: q4_0\n  mmap: true\n  flash_attention: off\n")
    monkeypatch.setenv("OKNO_STEP_TOKENS", "64")
    flags = ("--kv-type", "q8_0", "--flash-attention", "on", "--gpu-layers", "0")
    code, out, err = outcome(capsys, *flags, "--save", "--json")
    best = json.loads(out)["best"]
    assert code == 0
    assert "kv_type q8_0" in err
    assert best["kv_type"] == "q8_0"
    for name in ("batch_size", "ctx", "kv_type", "step_tokens", "gpu_layers", "mmap",
                 "flash_attention"):  # fmt: skip
        assert getattr(saved(), name) == best[name], name


def test_what_was_not_given_is_not_saved(capsys, measuring):
    assert outcome(capsys, "--save")[0] == 0
    assert merge([], {}, read_file(FILE)).given.keys() == {"batch_size", "ctx", "kv_type"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--kv-pool 64 is smaller than --ctx 256"),
        (("--config", "none"), "--config none means no settings file"),
    ],
)
def test_what_could_not_be_saved_is_not_measured(capsys, measuring, flags, said):
    before = "load:\n  kv_pool: 64\n"
    FILE.write_text(before)
    code, out, err = outcome(capsys, "--save", *flags)
    assert (code, out) == (2, "")
    assert said in err
    assert not measuring.goals
    assert FILE.read_text() == before
    assert outcome(capsys, *flags)[0] == 0, "to measure alone is possible"


def test_a_file_changed_meanwhile_keeps_that_change(capsys, measuring):
    FILE.write_text("top_k: 1\n")
    measuring.meanwhile = lambda: FILE.write_text("top_k: 2  # mine\n")
    assert outcome(capsys, "--save")[0] == 0
    assert FILE.read_text().startswith("top_k: 2  # mine\n")
    assert saved().ctx == 256


def test_a_file_that_cannot_be_saved_after_all_costs_no_result(capsys, measuring):
    measuring.meanwhile = lambda: FILE.write_text("load:\n  kv_pool: 64\n")
    code, out, err = outcome(capsys, "--save", "--json")
    assert code == 2
    assert json.loads(out)["best"]["ctx"] == 256
    assert "--kv-pool comes from generation_config.yaml, line 2." in err
    run(["plan", "demo", "--ctx", "256", "--prompt-tokens", "100", "--json"])
    windows = json.loads(capsys.readouterr().out)["windows"]
    assert "measured" in {w["speed"]["total_tok_s"]["kind"] for w in windows if w["speed"]}


def test_a_store_that_cannot_be_used_costs_no_result(capsys, tmp_path, measuring):
    (tmp_path / "data").mkdir()
    other = sqlite3.connect(tmp_path / "data" / "okno.db")
    other.execute("CREATE TABLE notes (text)")
    other.close()
    code, out, err = outcome(capsys, "--save", "--json")
    assert code == 0
    assert json.loads(out)["best"]["ctx"] == saved().ctx == 256
    assert "Not kept" in err
