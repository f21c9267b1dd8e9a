"""`okno bench plan-accuracy`: which measurements run, and which reports they may touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from okno.bench import accuracy_memory, accuracy_speed
from okno.cli.app import run


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str | None]]:
    """Instead of measuring: the reports that would be written, and the words given."""
    seen: list[tuple[Path, str | None]] = []

    def note(folder: Path, *, out: Path, wanted: str | None, **_: Any) -> None:
        seen.append((out, wanted))

    monkeypatch.setattr(accuracy_memory, "run", note)
    monkeypatch.setattr(accuracy_speed, "run", note)
    return seen


def bench(tmp_path: Path, *args: str) -> int:
    return run(["bench", "plan-accuracy", "--out", str(tmp_path), *args])


def test_all_is_measured_when_nothing_is_named(measured, tmp_path):
    assert bench(tmp_path) == 0
    names = ["plan-accuracy-memory.md", "plan-accuracy-speed.md"]
    assert [(out.name, wanted) for out, wanted in measured] == [(name, None) for name in names]


@pytest.mark.parametrize("what", ["memory", "speed", "all"])
def test_words_that_name_nothing_are_refused_before_anything_is_measured(
    what, measured, tmp_path, capsys
):
    assert bench(tmp_path, "--what", what, "--cases", "nothing-like-it") == 2
    assert "--cases 'nothing-like-it'" in capsys.readouterr().err
    assert measured == []


def test_a_kind_without_such_a_case_is_left_out_and_said(measured, tmp_path, capsys):
    assert bench(tmp_path, "--cases", "Mamba2") == 0
    assert [out.name for out, _ in measured] == ["plan-accuracy-memory.md"]
    assert "No case of speed" in capsys.readouterr().err


def test_words_of_one_kind_do_not_count_for_the_other(measured, tmp_path):
    assert bench(tmp_path, "--what", "speed", "--cases", "mamba2") == 2
    assert measured == []
