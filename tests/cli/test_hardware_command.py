"""`okno hardware`: tables for people, JSON for programs, what-ifs."""

from __future__ import annotations

import inspect
import json
import stat
from pathlib import Path

import pytest
from rich.console import Console

from okno.cli.hardware_table import bar, print_hardware
from okno.cli.options import with_settings
from okno.cli.whatif import with_whatif
from okno.inspect.hardware.machine import survey
from okno.inspect.hardware.overrides import Overrides
from okno.inspect.hardware.report import what_if
from tests.cli.support import okno
from tests.inspect import hardware_samples as samples
from tests.inspect.test_hardware_gpus import host
from tests.inspect.test_hardware_machine import V2

GIB = 1 << 30


def shown(*answers: tuple[str, str], overrides: Overrides = Overrides(), width: int = 80) -> str:  # noqa: B008
    out = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_hardware(what_if(survey(host=host(dict(answers), V2)), overrides), out)
    return out.export_text()


def test_it_says_what_is_here_what_is_free_and_what_bounds() -> None:
    done = okno("hardware")
    assert done.returncode == 0, done.stderr
    for word in ("CPU", "Cores", "RAM", "Total", "Free", "llama-cpp-python", "A model runs on"):
        assert word in done.stdout
    assert "\x1b" not in done.stdout, "no colour outside a terminal"
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_json_is_the_machine() -> None:
    found = json.loads(okno("hardware", "--json").stdout)
    machine = found["machine"]
    assert machine["cpu"]["usable_cores"] >= 1
    assert 0 < machine["ram"]["free_bytes"] <= machine["ram"]["total_bytes"]
    assert len(machine["fingerprint"]) == 16
    assert [one["name"] for one in found["engine"]["devices"]] == ["CPU"]


def test_fast_does_not_ask_the_engine() -> None:
    assert json.loads(okno("hardware", "--json", "--fast").stdout)["engine"] is None


def test_a_what_if_is_shown_with_what_it_assumes() -> None:
    done = okno("hardware", "--memory", "8GB", "--device", "cuda", "--bandwidth=300GB/s")
    assert done.returncode == 0, done.stderr
    assert "CUDA0 memory 8 GiB, 7.5 GiB free (assumed)" in " ".join(done.stdout.split())
    assert "300 GB/s" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--memory", "8"], "--memory '8': give a number with MB, GB or TB"),
        (["--bandwidth", "fast"], "--bandwidth 'fast'"),
        (["--cores", "0"], "--cores '0': give a whole number from 1"),
        (["--device", "cuda"], "this machine has none"),
        (["--device", "toaster"], "--device toaster is neither cpu, cuda,"),
        (["--memori", "8GB"], "Did you mean --memory?"),
    ],
)
def test_a_wrong_what_if_is_a_usage_error(args: list[str], said: str) -> None:
    done = okno("hardware", *args)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_broken_driver_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "nvidia-smi"
    path.write_text("#!/bin/sh\necho NVIDIA-SMI has failed >&2\nexit 9\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    done = okno("hardware", "--fast", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 0
    said = " ".join(done.stdout.split())
    assert "NVIDIA devices not readable: nvidia-smi failed with status 9: NVIDIA-SMI has" in said
    assert "RAM" in said


def test_a_card_the_engine_cannot_use_is_shown_with_the_reason() -> None:
    text = shown(("nvidia-smi", samples.NVIDIA_4090))
    said = " ".join(text.split())
    assert "1,008 GB/s" in said
    assert "not usable" in said
    assert "CUDA0 NVIDIA GeForce RTX 4090: this build of llama.cpp has no CUDA backend" in said
    assert "CMAKE_ARGS=-DGGML_CUDA=on" in said


def test_a_cgroup_and_swap_are_shown() -> None:
    said = " ".join(shown(width=100).split())
    assert "/sys/fs/cgroup/app, limit 8.0 GiB" in said
    assert "Swap 2.0 GiB 1,000 MiB" in said


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    answers = (("nvidia-smi", samples.NVIDIA_4090), ("rocm-smi", samples.ROCM_SMI_6))
    text = shown(*answers, overrides=Overrides(cores=3), width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= min(width, 100)


def test_bars() -> None:
    assert bar(100, 100).plain == "░" * 16
    assert bar(100, 0).plain == "█" * 16
    assert bar(100, 50).plain == "█" * 8 + "░" * 8
    assert bar(100, None).plain == ""
    assert bar(0, 0).plain == ""


def test_the_flags_go_on_any_command_beside_its_settings() -> None:
    seen: list[Overrides] = []

    @with_settings("models_dir")
    @with_whatif
    def plan(given: object, whatif: Overrides, model: str = "demo") -> None:
        """A plan."""
        seen.append(whatif)

    names = set(inspect.signature(plan).parameters)
    assert {"model", "memory", "device", "bandwidth", "cores", "free", "models_dir"} <= names
    assert names.isdisjoint({"whatif", "given"})
    values = dict.fromkeys(names, None) | {"model": "x", "memory": "8GB"}
    plan(**values)
    assert seen == [Overrides(memory_bytes=8 * GIB)]
