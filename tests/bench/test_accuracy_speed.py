from __future__ import annotations

from pathlib import Path

import pytest

from okno.bench import accuracy_speed
from okno.bench.accuracy_speed import Model, run
from okno.bench.accuracy_speed_child import Job
from okno.bench.accuracy_speed_report import DecodeCase, FirstCase, report
from okno.bench.chosen import chosen
from okno.bench.shapes import PRESETS
from okno.core.errors import BadSetting
from okno.core.plan import Figure
from tests.plan.speed_cases import calibration

JOB = Job(threads=1, batches=(1, 3), fills=(256,), prompts=((1, 20), (3, 40)), repeats=3)


def decode(predicted: float, measured: float, batch: int = 1) -> DecodeCase:
    figure = Figure(predicted, predicted / 1.1, predicted * 1.1)
    return DecodeCase("m Q4_0", batch, 256, figure, measured)


def first(predicted: float, measured: float, number: int = 0) -> FirstCase:
    return FirstCase("m Q4_0", 2, 64, number, predicted, (predicted / 1.1, predicted * 1.1),
                     measured)  # fmt: skip


def test_errors_are_signed_and_relative_to_what_was_measured() -> None:
    assert decode(110, 100).error == pytest.approx(0.1)
    assert first(0.9, 1.0).error == pytest.approx(-0.1)
    assert decode(105, 100).is_covered
    assert not decode(150, 100).is_covered


def test_the_report_sums_up_and_shows_each_residual() -> None:
    cases = [decode(110, 100), decode(80, 100, batch=4)]
    page = report(calibration(), cases, [first(1.3, 1.0), first(2.2, 2.0, number=1)])
    assert "| decode tokens/s, all | 2 | 15.0% | 20.0% | 20.0% | -5.0% | 50% |" in page
    assert "| m Q4_0, fill 256 | +10.0% | -20.0% ! |" in page
    assert "| m Q4_0, 2 x 64 | 1.00 s | +30.0% | 2.00 s | +10.0% | 20.0% |" in page


def test_models_are_measured_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        accuracy_speed, "MODELS",
        (Model(PRESETS["tiny"], "Q4_0"), Model(PRESETS["qwen3-tiny"], "Q4_0", "q8_0")),
    )  # fmt: skip
    out, told = tmp_path / "page.md", []
    decodes, firsts = run(tmp_path, out=out, tell=told.append, calibration=calibration(), job=JOB)
    assert [(c.batch, c.fill) for c in decodes] == [(1, 256), (3, 256)] * 2
    assert [(c.count, c.number) for c in firsts] == [(1, 0), (3, 0), (3, 1), (3, 2)] * 2
    assert all(c.measured > 0 for c in decodes)
    measured = [c.measured_s for c in firsts[1:4]]
    assert measured == sorted(measured)
    assert "qwen3-tiny Q4_0 KV q8_0" in out.read_text()
    assert len(told) == 12
    assert not list(tmp_path.glob("*.gguf"))


def test_a_name_that_no_model_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"llama-1b, Q4_0.*qwen3-0\.6b"):
        run(tmp_path / "models", wanted="nothing-like-it", calibration=calibration())
    assert not (tmp_path / "models").exists()


def test_models_are_named_as_memory_cases_are() -> None:
    found = chosen(accuracy_speed.MODELS, "QWEN3,kv")
    assert [model.name for model in found] == [
        "llama-1b Q4_K_M KV q8_0", "qwen3-0.6b Q8_0", "qwen3-0.6b Q4_K_M",
        "qwen3-0.6b Q8_0 no-fa",
    ]  # fmt: skip
