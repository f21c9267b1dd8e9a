"""Programs that are missing, hang, fail or print nonsense, run for real."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from okno.inspect.hardware import host as host_module
from okno.inspect.hardware.host import NotReadable, call_program, first_line
from okno.inspect.hardware.machine import survey


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """program("nvidia-smi", "echo hello"): put a shell script of that name first on the PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return make


def test_a_missing_program_is_no_answer() -> None:
    assert call_program(["okno-no-such-program"]) is None


def test_a_program_answers_in_the_c_locale(program) -> None:
    program("tell", 'echo "$LC_ALL $1"')
    assert call_program(["tell", "me"]) == "C me\n"


def test_a_program_that_hangs_is_given_up(program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "TIMEOUT_S", 0.2)
    program("hang", "exec tail -f /dev/null")
    with pytest.raises(NotReadable, match=r"hang did not answer within 0\.2 s"):
        call_program(["hang"])


def test_a_program_that_fails_is_quoted(program) -> None:
    program("fail", "echo 'no driver\x07 here' >&2; exit 9")
    with pytest.raises(NotReadable, match=r"fail failed with status 9: no driver\? here"):
        call_program(["fail"])


def test_sysctl_answers_though_one_name_is_unknown(program) -> None:
    program("sysctl", "echo hw.memsize: 1; exit 1")
    assert call_program(["sysctl"]) == "hw.memsize: 1\n"


def test_a_file_that_is_no_program(program, tmp_path: Path) -> None:
    program("broken", "")
    (tmp_path / "broken").write_bytes(b"\x7fELF nonsense")
    with pytest.raises(NotReadable, match="broken cannot be started"):
        call_program(["broken"])


def test_bytes_that_are_no_text_are_replaced(program) -> None:
    program("binary", r"printf '\377\376ok'")
    assert call_program(["binary"]) == "\ufffd\ufffdok"


def test_a_long_line_is_shortened() -> None:
    assert first_line("\n\n" + "x" * 500) == "x" * 160 + "…"
    assert first_line("  \n") == "it said nothing"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'NVIDIA-SMI has failed'; exit 9", "failed with status 9: NVIDIA-SMI has failed"),
        ("echo '<html>'", "nvidia-smi printed '<html>'"),
        (r"printf '\000\001'", "nvidia-smi printed"),
    ],
)
def test_a_broken_driver_is_a_note_and_the_machine_is_still_there(
    program, script: str, why: str
) -> None:
    program("nvidia-smi", script)
    found = survey()
    assert found.machine.ram.total_bytes > 0
    assert not [one for one in found.machine.devices if one.kind == "cuda"]
    (note,) = [note for note in found.notes if note.startswith("NVIDIA")]
    assert note.startswith("NVIDIA devices not readable: ")
    assert why in note


def test_a_working_driver_is_a_device_this_build_of_the_engine_cannot_use(program) -> None:
    program("nvidia-smi", "echo '0, GPU-1, NVIDIA GeForce RTX 4090, 24564, 23028, [N/A]'")
    found = survey(with_engine=True)
    (device,) = found.machine.devices
    assert (device.id, device.name, device.bandwidth_bytes_s) == (
        "CUDA0", "NVIDIA GeForce RTX 4090", 1008e9,
    )  # fmt: skip
    assert "no CUDA backend" in device.unusable
    assert found.machine.usable_devices == ()
    assert found.engine is not None
    assert [one.name for one in found.engine.devices] == ["CPU"]
