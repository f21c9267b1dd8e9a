"""The measurement that checks predicted memory: the worker's own peak, the cases, the report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from okno.bench import accuracy_memory, memory_cases
from okno.bench.accuracy_memory import Result, report, run
from okno.bench.full_context import _pieces
from okno.bench.memory_cases import CASES, Case, cases
from okno.bench.shapes import PRESETS
from okno.bench.worker_memory import measure_overhead, worker_peak
from okno.core.errors import EngineFailed
from okno.engines.dry_run_wire import OUTPUT_STEP_BYTES
from okno.engines.protocol import WorkerOptions
from okno.inspect.hardware.machine import this_machine
from okno.inspect.memory import parse_own
from okno.plan.memory import Overhead
from tests.conftest import MakeModel

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
PARTS = dict.fromkeys(accuracy_memory.PARTS, MIB)


def result(name: str = "llama-mid-Q4_0 1x512 f16", **changes: object) -> Result:
    values: dict[str, object] = {
        "name": name, "shape": "llama-mid", "predicted_bytes": 100 * MIB, "peak_bytes": 100 * MIB,
        "loaded_bytes": 90 * MIB, "margin_bytes": 10 * MIB, "seconds": 1.0, "closed": PARTS,
        "engine": PARTS,
    }  # fmt: skip
    return Result(**{**values, **changes})  # type: ignore[arg-type]


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
    assert cases("no such word") == ()


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
    assert both[1] == first[0]  # kept, not measured again
    assert all(abs(one.error_bytes) < 32 * MIB for one in both)
    for one in both:
        assert one.engine["output"] == pytest.approx(one.closed["output"], abs=OUTPUT_STEP_BYTES)
        assert one.closed == {**one.engine, "output": one.closed["output"]}
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".md"]
    text = (tmp_path / "report.md").read_text()
    assert "Within max(2 %, 64 MiB): 2 of 2" in text
    assert "qwen3-tiny | exact | exact" in text


def test_the_report_counts_what_is_outside_the_bound() -> None:
    results = [
        result("a", predicted_bytes=100 * MIB, peak_bytes=170 * MIB),
        result("b", predicted_bytes=10_180 * MIB, peak_bytes=10_000 * MIB),
        result("c", engine={**PARTS, "compute": 2 * MIB}),
    ]
    text = report(results, Overhead(process_bytes=31 * MIB))
    assert "Within max(2 %, 64 MiB): 2 of 3" in text
    assert "Peak within prediction and margin: 2 of 3" in text
    assert "50.00 %" in text
