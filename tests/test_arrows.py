"""Dependencies point one way: every import of okno's own rooms, also the late ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OKNO = Path(__file__).parents[1] / "okno"
FACTS = {"core", "config", "inspect"}
PURE = {"core", "plan", "schedule"}
BELOW = {
    "core": {"core"},
    "config": {"core", "config", "inspect"},
    "inspect": {"core", "inspect"},
    "plan": PURE,
    "schedule": PURE,
    "store": {"core", "store"},
    "engines": FACTS | PURE | {"engines"},
    "convert": FACTS | {"convert"},
    "advisor": FACTS | PURE | {"engines", "store", "advisor"},
    "server": FACTS | PURE | {"engines", "store", "advisor", "convert", "server"},
    "bench": FACTS | PURE | {"engines", "store", "advisor", "convert", "server", "bench"},
    "cli": FACTS | PURE | {"engines", "store", "advisor", "convert", "server", "bench", "cli"},
}
NO_IO = {"os", "io", "pathlib", "subprocess", "socket", "time", "threading", "sqlite3", "httpx"}


def imports(path: Path) -> Iterator[str]:
    """The modules a file imports; relative imports are not used here."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""


def files(room: str) -> list[Path]:
    return sorted((OKNO / room).rglob("*.py"))


def test_every_room_has_its_place():
    rooms = {path.parent.name for path in OKNO.glob("*/__init__.py")}
    assert rooms == BELOW.keys()


@pytest.mark.parametrize("room", BELOW)
def test_no_arrow_points_up(room):
    wrong = [
        f"{path.relative_to(OKNO)} imports {name}"
        for path in files(room)
        for name in imports(path)
        if name.startswith("okno.") and name.split(".")[1] not in BELOW[room]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ["plan", "schedule"])
def test_deciding_code_does_no_io(room):
    wrong = [
        f"{path.relative_to(OKNO)} imports {name}"
        for path in files(room)
        for name in imports(path)
        if name.split(".")[0] in NO_IO
    ]
    assert wrong == []


def test_core_is_standard_library_only():
    import sys

    known = sys.stdlib_module_names | {"okno"}
    wrong = [
        name for path in files("core") for name in imports(path) if name.split(".")[0] not in known
    ]
    assert wrong == []


def test_the_server_and_what_plans_for_it_never_load_the_engine():
    rooms = ("server", "advisor", "store", "plan", "schedule", "inspect", "config", "core")
    loading = [
        str(path.relative_to(OKNO))
        for room in rooms
        for path in files(room)
        if any(name.split(".")[0] == "llama_cpp" for name in imports(path))
    ]
    assert set(loading) <= {"inspect/hardware/engine_child.py"}
