"""The command line as typed: help, mistakes, exit codes, and what is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import okno as package
from okno.cli.app import COMMANDS, run, run_command
from okno.config.refused import REFUSED
from tests.cli.support import OKNO, ROOT, SERVER_PY, okno

HEAVY = {"pydantic", "httpx", "fastapi", "uvicorn", "rich", "msgspec", "numpy", "psutil", "click"}


@pytest.fixture(autouse=True)
def _no_okno_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OKNO_")]:
        monkeypatch.delenv(name)


def outcome(capsys, *args: str) -> tuple[int, str, str]:
    code = run(list(args))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_command(capsys):
    code, out, _ = outcome(capsys, "--help")
    assert code == 0
    assert all(f"  {name}" in out for name in COMMANDS)
    assert outcome(capsys)[1] == out


def test_the_listed_sentence_is_the_commands_own_first(capsys):
    for name, sentence in COMMANDS.items():
        code, out, _ = outcome(capsys, name, "--help")
        assert code == 0
        assert " ".join(sentence.rstrip(".").split()[:4]) in " ".join(out.split())


def test_version(capsys):
    assert outcome(capsys, "--version") == (0, f"okno {package.__version__}\n", "")
    assert "llama-cpp-python" in outcome(capsys, "version")[1]


def test_a_wrong_option_names_the_nearest_right_one(capsys):
    code, _, err = outcome(capsys, "serve", "--bacth-size", "2")
    assert code == 2
    assert "No such option: --bacth-size. Did you mean --batch-size?" in err


def test_a_wrong_command_names_the_nearest_right_one(capsys):
    code, _, err = outcome(capsys, "serv")
    assert code == 2
    assert "Did you mean 'serve'?" in err


def test_a_value_out_of_range_is_a_usage_error_in_one_line(capsys):
    code, out, err = outcome(capsys, "serve", "--ctx", "3")
    assert (code, out, err) == (2, "", "error: --ctx 3: it must be at least 16.\n")


def test_a_big_batch_size_is_explained(capsys):
    code, _, err = outcome(capsys, "serve", "--batch_size", "512")
    assert code == 2
    assert "prompt tokens per step; here that is --step-tokens" in err


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--gpu-memory-utilization", "0.9"], "batch x ctx tokens"),
        (["-b", "512"], "-b: Use --step-tokens (prompt tokens per step) or --batch-size"),
        (["--cont-batching"], "always on"),
        (["-cb"], "always on"),
        (["--jinja"], "leave it out"),
        (["--mlock"], "leave it out"),
        (["--cpu"], "--gpu-layers 0"),
        (["--verbose"], "--log-level info"),
    ],
)
def test_flags_okno_has_not_are_refused_with_what_to_do(capsys, args, reason):
    code, out, err = outcome(capsys, "serve", *args)
    assert (code, out) == (2, "")
    assert reason in err


@pytest.mark.parametrize("name", [name for refused in REFUSED for name in refused.names])
def test_every_refused_name_is_answered_under_its_own_name(capsys, name):
    value = [] if any(r.switch for r in REFUSED if name in r.names) else ["7"]
    assert outcome(capsys, "serve", name, *value)[2].startswith(f"error: {name}: ")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--bacth-size", "--batch-size"),
        ("--max-model-length", "--max-model-len"),
        ("--no-mmapp", "--no-mmap"),
        ("--allow-origin", "--allowed-origin"),
        ("--privat", None),
        ("--scripts", None),
        ("--engin", None),
        ("--n-predictt", "--n-predict"),
        ("--chat-templat", None),
        ("--zzz", None),
        ("-z", None),
    ],
)
def test_a_suggestion_is_close_and_one_that_helps(capsys, typed, offered):
    err = outcome(capsys, "serve", typed)[2].splitlines()[0]
    hint = f". Did you mean {offered}?" if offered else ""
    assert err == f"error: No such option: {typed}{hint}"


def test_an_unknown_model_is_an_error_that_names_what_there_is(capsys, tmp_path):
    code, _, err = outcome(capsys, "serve", "--model", "demmo", "--models-dir", str(tmp_path))
    assert code == 1
    assert "Did you mean demo?" in err
    assert "Traceback" not in err


def test_listening_on_every_address_demands_a_key(capsys):
    code, _, err = outcome(capsys, "serve", "--listen")
    assert code == 2
    assert "--api-key" in err


def test_server_py_is_serve_under_its_own_name(capsys):
    assert run_command("serve", ["--help"], program="python server.py") == 0
    assert capsys.readouterr().out.startswith("Usage: python server.py [OPTIONS]")


def test_the_processes_behave_the_same():
    assert okno("--help").stdout.startswith("Usage: okno [OPTIONS] COMMAND")
    wrong = okno("serve", "--bacth-size", "2")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Did you mean --batch-size?" in wrong.stderr
    served = okno("--help", program=SERVER_PY)
    assert (served.returncode, served.stderr) == (0, "")
    assert "--batch-size" in served.stdout


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh Python imports for `statement`."""
    code = f"import sys; before = set(sys.modules); {statement}\nprint(*set(sys.modules) - before)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_help_imports_nothing_heavy():
    modules = imported_by("from okno.cli.app import run; run(['--help'])")
    assert "okno.cli.app" in modules
    assert not modules & HEAVY


def test_import_okno_imports_only_itself():
    assert imported_by("import okno") - {"__future__"} == {"okno"}


@pytest.mark.parametrize("program", [[sys.executable, "-S", *SERVER_PY[1:]],
                                     [sys.executable, "-S", *OKNO[1:]]])  # fmt: skip
def test_a_python_without_the_dependencies_gets_a_sentence(program):
    result = okno("--model", "demo", program=program)
    assert result.returncode == 1
    assert "has no module 'typer'" in result.stderr
    assert "uv run" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_closed_pipe_is_no_traceback():
    process = subprocess.Popen(
        [*OKNO, "serve", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.close()
    _, err = process.communicate()
    assert b"Traceback" not in err
