from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from okno.bench import calibrate as calibrate_module
from okno.bench import calibrate_attention as attention
from okno.bench import calibrate_child
from okno.bench import calibrate_fit as fit
from okno.bench import calibrate_measure as measure
from okno.bench.calibrate import calibrate
from okno.bench.calibrate_attention import AttentionSamples, Shape
from okno.bench.calibrate_child import Plan, run
from okno.bench.calibrate_engine import FILL_CELLS, Rows
from okno.bench.calibrate_measure import MIXTURE, NARROW, NARROW_ROWS, WIDE, Bench, Samples
from okno.bench.calibrate_models import Block, write_block
from okno.core.calibration import AttentionCost, Curve, from_json
from okno.core.errors import BadSetting, EngineFailed
from okno.inspect.header import read_header
from okno.plan.speed_attention import Attention, Part, batch_of
from okno.plan.speed_work import AttentionLayers, work_of

SMALL = Block("Q4_0", 1, n_embd=64, n_ff=128, n_head=4, n_head_kv=2, head_dim=32)
NO_ATTENTION = fit.Costs(
    (AttentionCost("f16", 64, *(Curve((1,), (0.0,), (0.0,)),) * 2, None, 0.0),), 2
)


def bench(folder: Path) -> Bench:
    """One whose time is over: every measurement makes its fewest rounds."""
    return Bench(folder, threads=1, until=time.monotonic())


# Blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block", [SMALL, replace(SMALL, type="Q8_0", n_layer=3), replace(MIXTURE, n_embd=256)]
)
def test_a_block_is_a_model_as_its_header_says(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "block.gguf"
    write_block(block, path)
    header = read_header(path)
    assert (header.architecture, header.n_layer, header.n_embd) == ("llama", block.n_layer,
                                                                    block.n_embd)  # fmt: skip
    assert header.n_expert == block.n_expert
    matrices = [t for t in header.tensors if t.type == block.type]
    assert sum(t.n_values for t in matrices) == block.n_weights


@pytest.mark.parametrize("block", [*NARROW, WIDE])
def test_the_fit_counts_operations_and_activations_as_the_speed_model_does(
    block: Block, tmp_path: Path
) -> None:
    path = tmp_path / "block.gguf"
    write_block(block, path)
    work = work_of(read_header(path))
    assert fit.ops_of(block) == pytest.approx(work.ops, abs=2)
    values = work.every_row.activations + work.output_rows.activations
    assert fit.activations_of(block) == pytest.approx(values, rel=0.2, abs=1000)


def test_llama_cpp_computes_a_block_and_takes_some_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        engine = bench(tmp_path).open(stack, SMALL, cells=512)
        assert engine.step_s([Rows(0, 7, 0)]) > 0
        assert engine.logits(7).shape[0] == 7
    assert list(tmp_path.iterdir()) == []


def test_filled_cells_are_seen_as_those_computed_one_by_one(tmp_path: Path) -> None:
    """The same tokens with twice the copies: the mean over values does not change."""
    with ExitStack() as stack:
        engine = bench(tmp_path).open(stack, SMALL, cells=2048, n_seq=2)
        logits = []
        for copies in (1, 3):
            engine.forget()
            engine.fill(0, copies * FILL_CELLS, 1)
            engine.step_s([Rows(0, 1, FILL_CELLS)])
            logits.append(engine.logits(1).copy())
        engine.forget()
        engine.step_s([Rows(0, 1, FILL_CELLS)])
        alone = engine.logits(1).copy()
    assert abs(logits[0] - logits[1]).max() < 0.2 * abs(logits[0] - alone).max()


# Fits ----------------------------------------------------------------------------------------


def made(block: Block, rows: tuple[int, ...], per_weight: Callable[[int], float]) -> Samples:
    """Steps of a machine with 40 us a step, 3 us an operation, 0.5 ns an activation."""
    known = fit.Overhead(40e-6, 3e-6, 0.5e-9)
    return {n: [known.of(block, n) + block.n_weights * per_weight(n)] * 5 for n in rows}


def test_the_fit_finds_the_costs_that_made_the_samples() -> None:
    def per_weight(rows: int) -> float:
        return 40e-12 + rows * 8e-12

    narrow = [made(block, NARROW_ROWS, per_weight) for block in NARROW]
    deep_block = measure.deep_block("Q4_0", 4)
    wide = [(WIDE, made(WIDE, (16, 64, 256), per_weight)),
            (deep_block, made(deep_block, (1, 2, 3, 4), per_weight))]  # fmt: skip
    overhead = fit.fit_overhead(narrow, wide, NO_ATTENTION)
    assert overhead.step_s == pytest.approx(40e-6, rel=1e-3)
    assert overhead.op_s == pytest.approx(3e-6, rel=1e-3)
    assert overhead.activation_s == pytest.approx(0.5e-9, rel=1e-3)
    curve = fit.fit_product(wide, overhead, NO_ATTENTION)
    assert curve.at == (1, 2, 3, 4, 16, 64, 256)
    for rows, seconds in zip(curve.at, curve.seconds, strict=True):
        assert seconds == pytest.approx(per_weight(rows), rel=1e-3)


def test_costs_never_come_out_negative() -> None:
    """Samples that no costs explain: the wide block is faster than the narrow ones."""
    narrow = [{n: [0.01] * 3 for n in NARROW_ROWS} for _ in NARROW]
    wide: list[tuple[Block, Samples]] = [(WIDE, {n: [0.001] * 3 for n in NARROW_ROWS})]
    overhead = fit.fit_overhead(narrow, wide, NO_ATTENTION)
    assert min(overhead.step_s, overhead.op_s, overhead.activation_s) >= 0
    curve = fit.fit_product(wide, overhead, NO_ATTENTION)
    assert min(curve.seconds) > 0


def test_sampling_costs_a_step_its_rows_and_their_entries() -> None:
    costs = (130e-6, 20e-6, 0.8e-9)
    samples = {
        (rows, n): [costs[0] + rows * costs[1] + rows * n * costs[2]] * 5
        for rows in measure.SAMPLED_ROWS
        for n in measure.VOCABULARIES
    }
    assert fit.fit_sampling(samples) == pytest.approx(costs)


def test_sampling_is_measured_for_rows_and_vocabularies() -> None:
    found = measure.measure_sampling(rounds=5)
    assert set(found) == {(r, n) for r in measure.SAMPLED_ROWS for n in measure.VOCABULARIES}
    assert all(len(samples) == 5 and min(samples) > 0 for samples in found.values())


def test_experts_are_told_apart_from_the_dense_matrices_beside_them() -> None:
    overhead = fit.Overhead(40e-6, 3e-6, 0.5e-9)
    dense = Curve((1, 64), (50e-12, 60e-12), (0.0, 0.0))
    sizes = [(name, s) for name, s in MIXTURE.matrices]
    experts = sum(s[0] * s[1] * s[2] for _, s in sizes if len(s) == 3)
    beside = sum(s[0] * s[1] for _, s in sizes if len(s) == 2)
    samples: Samples = {}
    for rows in measure.MIXTURE_ROWS:
        touched = 16 * (1 - (1 - 4 / 16) ** rows)
        expert_s = experts / 16 * (touched * 45e-12 + (rows * 4 - touched) * 30e-12)
        dense_s = beside * (50e-12 + (rows - 1) / 63 * 10e-12)
        samples[rows] = [overhead.of(MIXTURE, rows) + dense_s + expert_s] * 3
    [curve] = fit.fit_experts({"Q4_0": samples}, {"Q4_0": dense}, overhead, NO_ATTENTION).values()
    assert curve.seconds == pytest.approx((45e-12, 75e-12), rel=1e-3)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_single_row_costs_a_cell_the_same_however_its_cells_are_split(threads: int) -> None:
    """llama.cpp splits the walked cells, of which one thread may get all that the row sees."""
    samples = AttentionSamples(skip=[1e-9])
    for depth in attention.DEPTHS:
        walked = -(-(depth + 1) // 256) * 256
        busiest = min(depth * threads, walked)  # on threads together
        samples.alone[depth] = [40e-9 * busiest / depth] * 4
        samples.few[depth] = [40e-9]
    cost = fit.fit_attention(Shape("q8_0", 64, 32, 8), (10**8, samples), threads)
    assert cost.alone.seconds == pytest.approx([40e-9] * len(attention.DEPTHS))
    assert (cost.n_head, cost.n_head_kv, cost.swept_bytes) == (32, 8, 10**8)


def test_rows_that_find_cells_in_the_caches_are_told_from_the_first_of_them() -> None:
    samples = AttentionSamples(skip=[1e-9], alone={256: [40e-9]}, few={1024: [50e-9]})
    samples.together[1024] = [(50e-9 + (attention.AGAIN_ROWS - 1) * 20e-9) / attention.AGAIN_ROWS]
    cost = fit.fit_attention(Shape("f16", 64, 32, 8), (10**8, samples), 1)
    assert cost.again is not None
    assert cost.again.seconds == pytest.approx([20e-9])


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 12, 16])
@pytest.mark.parametrize(("n_head", "n_head_kv"), [(8, 2), (32, 8)])
def test_a_measured_step_is_predicted_as_it_was_measured(
    threads: int, n_head: int, n_head_kv: int
) -> None:
    """However many threads share it: what they share unevenly counts once."""
    depth, measured = 4096, {attention.AGAIN_ROWS: 20e-9, attention.TILE: 3e-9}
    samples = AttentionSamples(
        skip=[0.0], skip_tile=[0.0], alone={depth: [40e-9]}, few={depth: [50e-9]},
        together={depth: [measured[attention.AGAIN_ROWS]]},
        tiled={depth: [measured[attention.TILE]]},
    )  # fmt: skip
    cost = fit.fit_attention(Shape("f16", 64, n_head, n_head_kv), (10**8, samples), threads)
    layers = AttentionLayers(1, n_head, n_head_kv, 64.0, None)
    for rows, seconds in measured.items():
        step = batch_of([Part(1, rows, depth - rows)])
        predicted = Attention(layers, cost, threads).seconds(step)
        assert predicted == pytest.approx(seconds * n_head * rows * depth, rel=0.01)


def test_a_neighbour_that_disturbs_most_samples_does_not_set_the_figure() -> None:
    assert fit.typical([1.0, 1.01, 1.02, 1.03]) == pytest.approx(1.0075)
    assert fit.typical([1.0, 3.0, 4.0, 9.0, 9.0]) == 1.0


# The whole -----------------------------------------------------------------------------------


def test_a_calibration_from_small_blocks_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "WIDE", replace(SMALL, n_embd=256, n_ff=512))
    monkeypatch.setattr(measure, "SLIM", replace(SMALL, n_layer=2))
    monkeypatch.setattr(measure, "BIG_LAYERS", 1)
    monkeypatch.setattr(measure, "MANY_ROWS", (32, 256))
    monkeypatch.setattr(measure, "TYPES", ("Q4_0", "F16"))
    monkeypatch.setattr(measure, "EXPERT_TYPES", ("Q4_0",))
    monkeypatch.setattr(attention, "NEAR", SMALL)
    monkeypatch.setattr(attention, "FAR", replace(SMALL, type="F16"))
    monkeypatch.setattr(attention, "FAR_SHAPES", (Shape("q8_0", 64, 4, 2),))
    monkeypatch.setattr(attention, "FIRST", (Shape("f16", 64, 4, 2), Shape("q8_0", 64, 4, 2)))
    monkeypatch.setattr(attention, "REST", (Shape("f16", 64, 4, 4),) * 2)
    monkeypatch.setattr(calibrate_child, "ATTENTION_END", 0.0)
    progress: list[float] = []
    found = run(Plan(1, 0.1, time.monotonic()), tmp_path, progress.append)
    assert set(found.weights) == {"Q4_0", "F16"}
    assert set(found.slim) == {"Q4_0", "F16"}
    assert set(measure.FEW_ROWS) <= set(found.weights["Q4_0"].at)
    assert [(c.kv_type, c.tiled is not None, c.again is not None) for c in found.attention] == [
        ("f16", True, True), ("q8_0", False, True), ("q8_0", False, False),
    ]  # fmt: skip
    assert {(c.n_head, c.n_head_kv) for c in found.attention} == {(4, 2)}
    assert found.bandwidth_bytes_s > 0
    assert from_json(found.to_json()) == found
    assert progress == sorted(progress)
    assert progress[-1] == 1


def test_a_budget_too_small_or_no_threads_are_refused() -> None:
    with pytest.raises(BadSetting, match="too little"):
        calibrate(1, 0.5)
    with pytest.raises(BadSetting, match="too little"):
        calibrate(1, float("nan"))
    with pytest.raises(BadSetting, match="threads"):
        calibrate(0)


def test_a_measuring_process_that_dies_is_an_error_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["python3", "-c", "import sys; sys.exit('no room on the disk')"]
    monkeypatch.setattr(calibrate_module, "_command", lambda *_: command)
    with pytest.raises(EngineFailed, match="no room on the disk"):
        calibrate(1, 10)


def test_a_measuring_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["python3", "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(calibrate_module, "_command", lambda *_: command)
    monkeypatch.setattr(calibrate_module, "OVERRUN", 0.01)
    with pytest.raises(EngineFailed, match="status -9"):
        calibrate(1, 10)
