"""The measurement that checks predicted memory: the worker's own peak, the cases, the report."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from okno.bench import accuracy_memory, memory_cases
from okno.bench.accuracy_memory import RESULTS, Predicted, Result, report, run
from okno.bench.full_context import _pieces
from okno.bench.kept_peaks import Measured
from okno.bench.memory_cases import CASES, Case, cases
from okno.bench.report import revision
from okno.bench.shapes import PRESETS
from okno.bench.worker_memory import Peak, measure_overhead, worker_peak
from okno.core.errors import BadSetting, EngineFailed
from okno.engines.dry_run_wire import OUTPUT_STEP_BYTES
from okno.engines.protocol import WorkerOptions
from okno.inspect.hardware.machine import this_machine
from okno.inspect.memory import parse_own
from okno.plan.memory import Overhead
from tests.conftest import MakeModel

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
PARTS = dict.fromkeys(accuracy_memory.PARTS, MIB)


# As okno wrote them before predictions were made anew: without machine, engine and revision.
OLD_LINE = {
    "name": "tiny-F32 2x512 f16", "shape": "tiny", "predicted_bytes": 1, "peak_bytes": 50 * MIB,
    "loaded_bytes": 40 * MIB, "margin_bytes": 2, "seconds": 7.0, "closed": {}, "engine": {},
}  # fmt: skip


def result(
    predicted_mib: int = 100, peak_mib: int = 100, *, revision: str | None = "abc",
    engine: dict[str, int] = PARTS,
) -> Result:  # fmt: skip
    predicted = Predicted(predicted_mib * MIB, 10 * MIB, PARTS, engine)
    measured = Measured("a case", peak_mib * MIB, 90 * MIB, 1.0, "m", "0", revision)
    return Result("llama-mid", predicted, measured)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two small cases whose measurement is instant; the names of those measured."""
    seen: list[str] = []

    def peak(options: WorkerOptions) -> Peak:
        seen.append(f"{Path(options.model_path).stem} {options.batch_size}x{options.ctx}")
        return Peak(60 * MIB, 40 * MIB, 60 * MIB, 1.0)

    monkeypatch.setattr(
        memory_cases, "CASES", (Case("tiny", "F32", 2, 512), Case("tiny", "F32", 1, 512))
    )
    monkeypatch.setattr(accuracy_memory, "worker_peak", peak)
    monkeypatch.setattr(accuracy_memory, "measure_overhead", lambda _: Overhead())
    return seen


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]


def test_the_cases_cover_what_the_claim_says() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    architectures = {PRESETS[case.shape].architecture for case in CASES}
    assert len(architectures) >= 11
    assert {case.kv_type for case in CASES} == {"f16", "q8_0", "q4_0"}
    assert {case.mmap for case in CASES} == {True, False}
    assert {1, 16} <= {case.batch_size for case in CASES}
    assert {512, 32_768} <= {case.ctx for case in CASES}
    assert any(case.shape == "llama-13b" for case in CASES)


def test_cases_are_chosen_by_words_of_their_names() -> None:
    assert cases(None) == CASES
    chosen = cases("mamba2, bert")
    assert {case.shape for case in chosen} == {"mamba2-mid", "bert-mid"}
    assert {case.shape for case in cases("MAMBA2 bert")} == {"mamba2-mid", "bert-mid"}
    with pytest.raises(BadSetting, match="mamba2-mid-F16"):
        cases("no-such-word")


def test_own_memory_leaves_out_mapped_files() -> None:
    status = "Name:\tx\nRssAnon:\t 100 kB\nRssFile:\t 900 kB\nRssShmem:\t 20 kB\nVmSwap:\t 3 kB\n"
    assert parse_own(status) == 123 * 1024


def test_every_sequence_is_filled_to_its_end_in_full_steps() -> None:
    steps = list(_pieces(batch=3, last=100, step_tokens=64))
    assert [sum(len(span.tokens) for span in step) for step in steps] == [64, 64, 64, 64, 44]
    rows = {(s.seq, s.start + i) for step in steps for s in step for i in range(len(s.tokens))}
    assert rows == {(seq, position) for seq in range(3) for position in range(100)}


@linux
def test_the_peak_of_a_worker_grows_by_the_cache_it_fills(make_model: MakeModel) -> None:
    def peak(ctx: int) -> int:
        options = WorkerOptions(str(make_model("tiny")), "tiny", batch_size=1, ctx=ctx)
        return worker_peak(options).full_bytes

    cells = 16_384 - 512
    assert peak(16_384) - peak(512) > cells * 256  # 2 layers x (K + V) x 32 values x 2 bytes


@linux
def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    options = WorkerOptions(str(tmp_path / "none.gguf"), "none", batch_size=1, ctx=512)
    with pytest.raises(EngineFailed, match=r"none\.gguf"):
        worker_peak(options)


@linux
def test_the_overhead_of_this_machine_is_tens_of_megabytes() -> None:
    assert 10 * MIB < measure_overhead(this_machine()).process_bytes < 200 * MIB


@linux
def test_a_broken_off_run_goes_on_and_leaves_no_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        memory_cases, "CASES",
        (Case("tiny", "F32", 2, 512), Case("qwen3-tiny", "Q8_0", 1, 512, mmap=True)),
    )  # fmt: skip
    said: list[str] = []
    first = run(tmp_path, out=tmp_path / "report.md", wanted="qwen3", tell=said.append)
    both = run(tmp_path, out=tmp_path / "report.md", tell=said.append)
    assert [one.name for one in both] == ["tiny-F32 2x512 f16", "qwen3-tiny-Q8_0 1x512 f16 mmap"]
    assert both[1].measured == first[0].measured  # kept, not measured again
    assert all(abs(one.error_bytes) < 32 * MIB for one in both)
    for one in both:
        closed, engine = one.predicted.closed, one.predicted.engine
        assert engine["output"] == pytest.approx(closed["output"], abs=OUTPUT_STEP_BYTES)
        assert closed == {**engine, "output": closed["output"]}
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".md"]
    text = (tmp_path / "report.md").read_text()
    assert "Within max(2 %, 64 MiB): 2 of 2" in text
    assert "qwen3-tiny | exact | exact" in text


def test_a_kept_peak_is_reported_with_the_prediction_of_today(
    tmp_path: Path, tiny: list[str]
) -> None:
    (tmp_path / RESULTS).write_text(json.dumps(OLD_LINE) + "\n")
    found = run(tmp_path, out=tmp_path / "report.md", tell=lambda _: None)
    assert tiny == ["tiny-F32 1x512"], "the other was measured already"
    old, fresh = found
    assert (old.measured.peak_bytes, old.measured.seconds) == (50 * MIB, 7.0)
    assert old.predicted.needed_bytes > 30 * MIB
    assert old.predicted.engine["kv"] == 2 * fresh.predicted.engine["kv"] > 0
    text = (tmp_path / "report.md").read_text()
    assert f"Predicted by revision {revision()}: 2 cases." in text
    assert "unknown (machine and engine too): 1 cases" in text
    assert f"{revision()}: 1 cases." in text


def test_what_is_measured_is_kept_with_where_and_by_what(tmp_path: Path, tiny: list[str]) -> None:
    run(tmp_path, out=None, tell=lambda _: None)
    for line in lines_of(tmp_path):
        assert line["machine"] == this_machine().fingerprint
        assert line["engine_version"] == version("llama-cpp-python")
        assert line["revision"] == revision()
        assert "predicted_bytes" not in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [RESULTS]
    run(tmp_path, out=None, tell=lambda _: None)
    assert len(tiny) == 2, "nothing is measured twice"


@pytest.mark.parametrize("other", [{"machine": "another"}, {"engine_version": "0.0.1"}])
def test_another_machine_or_engine_is_measured_again(
    tmp_path: Path, tiny: list[str], other: dict[str, str]
) -> None:
    run(tmp_path, out=None, wanted="2x512", tell=lambda _: None)
    (line,) = lines_of(tmp_path)
    (tmp_path / RESULTS).write_text(json.dumps({**line, "peak_bytes": 1, **other}) + "\n")
    (again,) = run(tmp_path, out=None, wanted="2x512", tell=lambda _: None)
    assert tiny == ["tiny-F32 2x512"] * 2
    assert again.measured.peak_bytes == 60 * MIB
    (kept,) = run(tmp_path, out=None, wanted="2x512", tell=lambda _: None)
    assert (len(tiny), kept.measured) == (2, again.measured)


def test_words_that_name_no_case_touch_nothing(tmp_path: Path, tiny: list[str]) -> None:
    out = tmp_path / "report.md"
    out.write_text("the last report")
    with pytest.raises(BadSetting):
        run(tmp_path / "models", out=out, wanted="mamba", tell=lambda _: None)
    assert (out.read_text(), tiny) == ("the last report", [])
    assert not (tmp_path / "models").exists()


def test_the_report_counts_what_is_outside_the_bound() -> None:
    results = [
        result(100, 170),
        result(10_180, 10_000, revision=None),
        result(engine={**PARTS, "compute": 2 * MIB}),
    ]
    text = report(results, Overhead(process_bytes=31 * MIB))
    assert "Within max(2 %, 64 MiB): 2 of 3" in text
    assert "Peak within prediction and margin: 2 of 3" in text
    assert "50.00 %" in text
    assert "Measured by revision abc: 2 cases, unknown (machine and engine too): 1 cases." in text
