"""Children of okno import what okno imports, and nothing from where the user happens to be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from okno.core.python import import_path, module_command
from okno.engines.process import worker_environment
from okno.engines.tokenise import tokenise
from tests.conftest import MakeModel


def test_files_of_the_current_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: MakeModel
) -> None:
    """A folder of downloads may hold a numpy.py."""
    model = make_model("tiny")
    for name in ("msgspec", "numpy", "resource", "llama_cpp"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the folder')")
    monkeypatch.chdir(tmp_path)
    assert tokenise(model, ["a text"])[0].n_tokens
    for module in ("okno.engines.worker", "okno.bench.calibrate_child"):
        probe = f"import importlib.util as u; print(u.find_spec('numpy').origin, '{module}')"
        command = [*module_command(module)[:2], "-c", probe]
        said = subprocess.check_output(command, env=worker_environment(), text=True)
        assert str(tmp_path) not in said


def test_the_package_is_found_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-P", "-c", "import okno; print(okno.__file__)"]
    said = subprocess.check_output(command, env={"PYTHONPATH": import_path()}, cwd=tmp_path,
                                   text=True)  # fmt: skip
    assert Path(said.strip()).parent.name == "okno"
