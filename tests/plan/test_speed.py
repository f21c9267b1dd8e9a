from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.calibration import Curve
from okno.core.errors import BadSetting
from okno.core.machine import Cpu, Device, Machine, Ram
from okno.core.plan import Figure, SpeedPlan
from okno.plan import speed_prefill
from okno.plan.refine import Refinement
from okno.plan.simulate import Arrival, simulate
from okno.plan.speed import Planner, SpeedModel, predict_speed
from okno.plan.speed_attention import Part, batch_of
from okno.plan.speed_rough import rough_calibration
from okno.schedule.step import Limits
from tests.plan.speed_cases import bare_step_s, calibration, header, load, mixture

MODEL = SpeedModel(header(), calibration())


def figures(plan: SpeedPlan) -> list[Figure]:
    return [plan.alone_tok_s, plan.user_tok_s, plan.total_tok_s, plan.prefill_tok_s, plan.ttft_s,
            plan.ttft_loaded_s]  # fmt: skip


def width(figure: Figure) -> float:
    return figure.high / figure.low


# Steps ---------------------------------------------------------------------------------------


def test_a_step_is_the_sum_of_its_parts() -> None:
    matrices = 8 * (1024 * 1024 * 2 + 2 * 1024 * 256 + 3 * 1024 * 3072)
    widths = 8 * (2 * 2048 + 2 * 1280 + 3 * 4096)
    ops = 65 + 8 * 8
    attention = 8 * 16 * 512 * 10e-9  # 512 cells, padded, seen by one row alone
    expected = (
        50e-6 + ops * 2e-6
        + matrices * 50e-12 * 1.4 + (widths + 1024 + 32_000) * 0.5e-9
        + 1024 * 32_000 * 80e-12 * 1.4
        + attention + 20e-6 + 50e-6 + 32_000e-9
    )  # fmt: skip
    assert bare_step_s(MODEL, [1], [511]) == pytest.approx(expected)


def filled_rows(model: SpeedModel, rows: int, depth: int = 100) -> int:
    return model.filled(batch_of([Part(rows, 1, depth)])).n_rows


def test_a_step_is_filled_up_to_where_it_is_shortest() -> None:
    """Products in groups of four: 2 rows take longer than 4."""
    found = {n: filled_rows(MODEL, n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 13, 15, 16)}
    assert found == {1: 1, 2: 4, 3: 4, 4: 4, 5: 5, 6: 8, 7: 8, 8: 8, 13: 13, 15: 16, 16: 16}
    four = batch_of([Part(3, 1, 100), Part(1, 1, 0)])
    assert MODEL.step_s([1] * 3, [100] * 3, 3) == MODEL.batch_s(four, 3)
    assert MODEL.batch_s(four, 3) < bare_step_s(MODEL, [1] * 3, [100] * 3)


def test_a_step_without_a_knee_is_not_filled() -> None:
    rising = Curve((1, 2, 4, 64), (50e-12, 55e-12, 60e-12, 900e-12), (0.0,) * 4)
    model = SpeedModel(header(), calibration(weights={"Q4_0": rising, "Q6_K": rising}))
    assert [filled_rows(model, n) for n in (1, 2, 3, 5, 63)] == [1, 2, 3, 5, 63]


def test_rows_that_would_walk_many_cells_for_nothing_are_left_out() -> None:
    """Without flash attention every row computes every cell."""
    costly = Curve((1, 64), (20e-9, 20e-9), (0.0, 0.0))
    attention = tuple(replace(cost, plain=costly) for cost in calibration().attention)
    model = SpeedModel(header(), calibration(attention=attention), flash=False)
    assert (filled_rows(model, 3, 10), filled_rows(model, 3, 10_000)) == (4, 3)


def test_a_state_that_cannot_be_rolled_back_gets_no_filler() -> None:
    assert filled_rows(SpeedModel(header(window=512), calibration()), 3) == 3


def test_without_logits_the_last_layer_skips_what_lies_behind_its_attention() -> None:
    whole = bare_step_s(MODEL, [64], [0], outputs=64)
    pruned = bare_step_s(MODEL, [64], [0], outputs=0)
    vocabulary = SpeedModel(header(n_layer=1), calibration())
    assert whole - pruned == pytest.approx(
        bare_step_s(vocabulary, [64], [0], outputs=64)
        - bare_step_s(vocabulary, [64], [0], outputs=0)
    )


def test_cells_of_others_are_walked_and_cost_less_than_own_ones() -> None:
    alone = bare_step_s(MODEL, [1, 1], [1000, 1000])
    parked = bare_step_s(MODEL, [1, 1], [1000, 1000], parked_cells=4096)
    deeper = bare_step_s(MODEL, [1, 1], [3048, 3048])
    assert alone < parked < deeper


def test_attention_from_64_rows_on_works_in_tiles() -> None:
    few, tiled = bare_step_s(MODEL, [63], [4096]), bare_step_s(MODEL, [64], [4096])
    assert tiled < few / 2


def test_a_65th_row_costs_a_whole_tile() -> None:
    deep = SpeedModel(header(), calibration(step_s=0.0))
    without = [bare_step_s(deep, [n], [8192]) - bare_step_s(deep, [n], [0]) for n in (64, 65, 128)]
    assert without[1] == pytest.approx(2 * without[0], rel=0.1)
    assert without[2] == pytest.approx(2 * without[0], rel=0.1)


def test_a_sliding_window_bounds_the_cost_of_depth() -> None:
    sliding = SpeedModel(header(window=512), calibration())
    assert bare_step_s(sliding, [1], [8000]) == pytest.approx(bare_step_s(sliding, [1], [4000]))
    assert bare_step_s(sliding, [1], [200]) == pytest.approx(bare_step_s(MODEL, [1], [200]))
    assert bare_step_s(sliding, [256], [8000]) < bare_step_s(MODEL, [256], [8000])


def test_weights_never_come_faster_than_memory_gives_them() -> None:
    slow = SpeedModel(header(), calibration(bandwidth_bytes_s=1e9))
    weights = 8 * (1024 * 1024 * 2 + 2 * 1024 * 256 + 3 * 1024 * 3072)
    assert bare_step_s(slow, [1], [0]) > weights * 4.5 / 8 / 1e9


def test_weights_of_matrices_with_few_inputs_cost_what_slim_blocks_did() -> None:
    dear = Curve((1, 64), (170e-12, 3400e-12), (0.0, 0.0))
    costs = calibration(slim={"Q4_0": dear}, wide_width=4096.0, slim_width=1024.0)
    slower = bare_step_s(SpeedModel(header(), costs), [1], [0]) - bare_step_s(MODEL, [1], [0])
    weights, outputs = 8 * 12_058_624, 8 * (2 * 1024 + 2 * 256 + 2 * 3072 + 1024)
    part = (outputs / weights - 1 / 4096) / (1 / 1024 - 1 / 4096)
    assert slower == pytest.approx(weights * part * 100e-12, rel=1e-3)


def test_a_mixture_reads_only_the_experts_that_rows_are_sent_to() -> None:
    costs = calibration(experts={"Q4_0": Curve((1, 2), (50e-12, 80e-12), (0.0, 0.0))})
    few, all_ = SpeedModel(mixture(8, 2), costs), SpeedModel(mixture(8, 8), costs)
    assert bare_step_s(few, [1], [0]) < bare_step_s(all_, [1], [0]) / 2
    more = [bare_step_s(few, [1] * n, [0] * n) for n in (1, 2, 4, 8, 16)]
    assert more == sorted(more)


def test_recurrent_state_costs_per_row_and_not_per_depth() -> None:
    base = header()
    layers = tuple(replace(layer, k_width=0, v_width=0, state_width=4096) for layer in base.layers)
    model = SpeedModel(replace(base, layers=layers), calibration(state_s=1e-9))
    assert bare_step_s(model, [1], [0]) == pytest.approx(bare_step_s(model, [1], [8000]))
    assert bare_step_s(model, [4], [0]) - bare_step_s(model, [3], [0]) != 0


# Prompts -------------------------------------------------------------------------------------


def test_prompts_at_once_are_cut_as_the_pacer_cuts_them_beside_others_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each that is done decodes beside the rest, each that is not still waits."""
    asked: list[tuple[int, int]] = []

    def piece_rows(seconds: object, most: int, decodes: int, *, prompts: int) -> int:
        asked.append((decodes, prompts))
        return 64

    monkeypatch.setattr(speed_prefill, "piece_rows", piece_rows)
    speed_prefill.prompts_at_once_s(MODEL, 4, 512, 256)
    assert asked == [(0, 4), (1, 3), (2, 2), (3, 1)]


# Plans ---------------------------------------------------------------------------------------


def test_more_users_give_more_in_all_and_less_each() -> None:
    plans = [
        predict_speed(header(), load(b), calibration(), fill_tokens=512, prompt_tokens=256)
        for b in (1, 4, 16)
    ]
    totals = [p.total_tok_s.value for p in plans]
    assert totals == sorted(totals)
    assert [p.user_tok_s.value for p in plans] == sorted(
        (p.user_tok_s.value for p in plans), reverse=True
    )
    assert len({p.alone_tok_s.value for p in plans}) == 1
    assert plans[0].ttft_loaded_s == plans[0].ttft_s


def test_every_figure_lies_in_its_interval_and_is_predicted() -> None:
    plan = predict_speed(header(), load(), calibration(), fill_tokens=999, prompt_tokens=700)
    for figure in figures(plan):
        assert 0 < figure.low < figure.value < figure.high
        assert figure.kind == "predicted"


@pytest.mark.parametrize(
    ("far", "why"),
    [
        (header("Q3_K"), "a type that was not measured"),
        (mixture(), "experts that were not measured"),
    ],
)
def test_intervals_widen_where_calibration_saw_nothing(far: object, why: str) -> None:
    near = predict_speed(header(), load(), calibration(), fill_tokens=999, prompt_tokens=700)
    wide = predict_speed(far, load(), calibration(), fill_tokens=999, prompt_tokens=700)  # type: ignore[arg-type]
    assert width(wide.total_tok_s) > 1.05 * width(near.total_tok_s), why


def test_intervals_widen_beyond_the_depth_that_was_seen() -> None:
    planner = Planner(header(), calibration())
    seen = planner.predict(load(4, 8192), fill_tokens=8192, prompt_tokens=64)
    beyond = planner.predict(load(4, 65_536), fill_tokens=65_536, prompt_tokens=64)
    assert width(beyond.total_tok_s) > width(seen.total_tok_s)


def test_an_embedding_model_only_has_prompts() -> None:
    embedder = replace(header(), is_embedding_model=True)
    plan = predict_speed(embedder, load(), calibration(), fill_tokens=100, prompt_tokens=100)
    assert plan.total_tok_s.value == plan.user_tok_s.value == plan.alone_tok_s.value == 0
    assert plan.ttft_s.value > 0


@given(
    batch=st.integers(1, 256), ctx=st.integers(2, 200_000), fill=st.integers(0, 300_000),
    prompt=st.integers(0, 300_000), kv=st.sampled_from(["f16", "q8_0", "q4_0", "bf16"]),
)  # fmt: skip
def test_any_window_has_a_finite_speed(
    batch: int, ctx: int, fill: int, prompt: int, kv: str
) -> None:
    plan = Planner(header(), calibration()).predict(
        load(batch, ctx, kv), fill_tokens=fill, prompt_tokens=prompt
    )
    for figure in figures(plan):
        assert 0 < figure.low <= figure.value <= figure.high < 1e12


@pytest.mark.parametrize(("count", "tokens"), [(1, 64), (1, 900), (1, 3000), (4, 500), (8, 900)])
def test_the_cheap_way_agrees_with_the_scheduler_step_by_step(count: int, tokens: int) -> None:
    ctx = tokens + 64
    plan = Planner(header(), calibration()).predict(
        load(count, ctx), fill_tokens=1, prompt_tokens=tokens
    )
    limits = Limits(count, count, count * ctx)
    # Enough new tokens that nobody is done before the last one starts.
    arrivals = [Arrival(0.0, tokens, 64) for _ in range(count)]
    outcomes = simulate(arrivals, limits, MODEL.step_s)
    last = max(outcome.ttft_s for outcome in outcomes)
    assert plan.ttft_loaded_s.value == pytest.approx(last, rel=0.12)


def test_what_serving_taught_moves_the_figures_and_narrows_them() -> None:
    refinement = Refinement()
    for _ in range(100):
        refinement.observe(4, 1.0, 1.25)
    loads = {"fill_tokens": 512, "prompt_tokens": 256}
    before = Planner(header(), calibration(noise=0.1)).predict(load(4), **loads)
    after = Planner(header(), calibration(noise=0.1), refinement).predict(load(4), **loads)
    assert after.total_tok_s.value == pytest.approx(before.total_tok_s.value / 1.25, rel=0.01)
    assert width(after.total_tok_s) < width(before.total_tok_s)


# Guesses -------------------------------------------------------------------------------------

CPU = Cpu("some", "x86_64", 8, 16, 8, ("avx2",))
RAM = Ram(32 << 30, 30 << 30)


def rough_speed(machine: Machine) -> SpeedPlan:
    costs = rough_calibration(machine)
    return predict_speed(header(), load(), costs, fill_tokens=512, prompt_tokens=512)


def test_a_guess_follows_bandwidth_and_says_how_unsure_it_is() -> None:
    slow, fast = (rough_speed(Machine("linux", CPU, RAM, bandwidth_bytes_s=b)) for b in (5e9, 50e9))
    assert fast.alone_tok_s.value > 2 * slow.alone_tok_s.value
    assert width(slow.alone_tok_s) > 1.8


def test_a_guess_takes_prompts_in_whole_tiles_on_a_processor() -> None:
    model = SpeedModel(header(), rough_calibration(Machine("linux", CPU, RAM)), "f16", True)
    rates = {n: n / model.batch_s(batch_of([Part(1, n, 512)]), 0) for n in (48, 64)}
    assert rates[64] > 1.1 * rates[48]


def test_a_gpu_is_guessed_from_its_bandwidth() -> None:
    gpu = Device("CUDA0", "cuda", "some", 8 << 30, 7 << 30, bandwidth_bytes_s=300e9)
    on_gpu = rough_speed(Machine("linux", CPU, RAM, (gpu,)))
    on_cpu = rough_speed(Machine("linux", CPU, RAM))
    assert on_gpu.prefill_tok_s.value > 10 * on_cpu.prefill_tok_s.value
    assert on_gpu.alone_tok_s.value > on_cpu.alone_tok_s.value


def test_a_gpu_the_engine_cannot_use_is_guessed_only_when_named() -> None:
    gpu = Device("CUDA0", "cuda", "some", 8 << 30, 7 << 30, bandwidth_bytes_s=300e9, unusable="no")
    machine, plain = Machine("linux", CPU, RAM, (gpu,)), Machine("linux", CPU, RAM)
    assert rough_speed(machine) == rough_speed(plain)
    named = rough_calibration(machine, "CUDA0")
    assert named.bandwidth_bytes_s > 2 * rough_calibration(machine).bandwidth_bytes_s
    with pytest.raises(BadSetting, match=r"no device 'CUDA1'; it has cpu, CUDA0"):
        rough_calibration(machine, "CUDA1")


def test_a_guess_for_an_accelerator_does_not_depend_on_the_processors_cores() -> None:
    gpu = Device("CUDA0", "cuda", "some", 8 << 30, 7 << 30, bandwidth_bytes_s=300e9)
    few, many = (
        rough_speed(Machine("linux", replace(CPU, usable_cores=n), RAM, (gpu,))) for n in (4, 128)
    )
    assert few == many


@pytest.mark.parametrize("flash", [True, False])
def test_a_step_without_rows_takes_no_attention(flash: bool) -> None:
    """Asked while all live sequences are still on their prompts: what would they decode at?"""
    model = SpeedModel(header(), calibration(), flash=flash)
    assert model.attention_s(batch_of([], parked_cells=1000)) == 0
    assert 0 < model.batch_s(batch_of([]), 0) < bare_step_s(model, [1], [1])
