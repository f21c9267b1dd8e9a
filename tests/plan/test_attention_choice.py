"""Flash attention is left out where the calibration says so, and only there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from okno.core.calibration import Calibration, Curve
from okno.core.load import FlashAttention, Load
from okno.core.machine import Cpu, Machine, Ram
from okno.core.plan import DeviceMemory, Figure, MemoryParts, MemoryPlan, PlannedLoad, SpeedPlan
from okno.core.window import Window
from okno.plan.attention_choice import (
    LEAST_GAIN,
    MORE_SHARE,
    _gain,
    settled,
)
from okno.plan.goals import Goal
from okno.plan.refine import Refinement
from okno.plan.search import plan_windows
from okno.plan.speed import ANSWER_TOKENS, Planner
from okno.plan.speed_attention import Part, batch_of
from okno.plan.speed_prefill import Neighbours, prompt_s, row_beside_s
from okno.plan.speed_rough import rough_calibration
from okno.schedule import pacer
from tests.plan.fakes import MIB, a_machine
from tests.plan.speed_cases import calibration, header, load

HEADER = header()
KV_BYTES = 1024
FREE = 64 << 30

MODES: tuple[FlashAttention, ...] = ("auto", "off")


def without(cell_s: float = 4e-9) -> Calibration:
    """A cell costs a fifth of what flash attention makes of it, but for every row."""
    known = calibration()
    plain = Curve((1, 64), (cell_s, cell_s), (0.01, 0.01))
    return replace(known, attention=tuple(replace(cost, plain=plain) for cost in known.attention))


class Memory:
    """Without flash attention the scores are stored."""

    def __init__(self, free_bytes: int = FREE, score_bytes: int = 32) -> None:
        self.free_bytes, self.score_bytes = free_bytes, score_bytes

    def memory(self, load: Load) -> MemoryPlan:
        cells = load.window.kv_pool_tokens
        scores = self.score_bytes * cells if load.flash_attention == "off" else 0
        parts = MemoryParts(weights_bytes=400 * MIB, kv_bytes=KV_BYTES * cells,
                            compute_bytes=scores)  # fmt: skip
        return MemoryPlan((DeviceMemory("cpu", parts, self.free_bytes),), "closed form")


def speed(known: Calibration, one: Load) -> SpeedPlan:
    fill = one.window.ctx // 2
    return Planner(HEADER, known).predict(one, fill_tokens=fill, prompt_tokens=256)


def choice(one: Load, known: Calibration, memory: Memory | None = None) -> str:
    memory, predict = memory or Memory(), partial(speed, known)
    planned = PlannedLoad(one, memory.memory(one), predict(one))
    found = settled(HEADER, planned, memory.memory, predict)
    assert found.load.window.kv_pool_tokens == one.window.kv_pool_tokens
    assert found.memory == memory.memory(found.load)
    assert found.speed == predict(found.load)
    return found.load.flash_attention


def test_few_sequences_do_without_and_many_do_with():
    assert choice(load(batch=1), without()) == "off"
    assert choice(load(batch=2, ctx=2048), without(3e-9)) == "off"
    assert choice(load(batch=32, ctx=2048), without()) == "auto"


def test_where_it_was_not_measured_it_stays():
    assert choice(load(batch=1), calibration()) == "auto"


@pytest.mark.parametrize("batch", [1, 8, 16, 32])
def test_a_data_sheet_knows_no_reason(batch):
    """Without it steps are smaller, and that alone looks like a gain (of 32: 1.08)."""
    cpu = Cpu("some", "x86_64", 8, 8, 8, ("avx512f",))
    known = rough_calibration(Machine("linux", cpu, Ram(32 << 30, 30 << 30)))
    assert choice(load(batch=batch, ctx=1024), known) == "auto"


@pytest.mark.parametrize("asked", ["on", "off"])
def test_what_was_asked_stays(asked):
    window = Window(1, 2048, 2048)
    assert choice(Load(window, flash_attention=asked), without()) == asked


def test_a_small_gain_is_not_worth_it():
    assert choice(load(batch=1), without(cell_s=20e-9)) == "auto"


def test_what_was_measured_one_way_is_served_that_way():
    one, predict = load(batch=1), partial(speed, without())
    memory = Memory().memory

    def measured(flash: str) -> SpeedPlan:
        found = predict(replace(one, flash_attention=flash))
        return replace(found, total_tok_s=replace(found.total_tok_s, kind="measured"))

    ran_with = PlannedLoad(one, memory(one), measured("auto"))
    assert settled(HEADER, ran_with, memory, predict).load.flash_attention == "auto"
    slow = partial(speed, without(cell_s=1e-6))
    planned = PlannedLoad(one, memory(one), slow(one))
    found = settled(HEADER, planned, memory, lambda _: measured("off"))
    assert found.load.flash_attention == "off"


def test_what_was_measured_both_ways_is_served_the_faster_way():
    """Predictions say off; what was measured has the last word."""
    one, memory = load(batch=1), Memory().memory
    predicted = {flash: speed(without(), replace(one, flash_attention=flash)) for flash in MODES}

    def chosen(on_tok_s: float, off_tok_s: float) -> Load:
        on, off = (
            replace(predicted[flash], total_tok_s=Figure(rate, rate, rate, "measured"))
            for flash, rate in zip(MODES, (on_tok_s, off_tok_s), strict=True)
        )
        return settled(HEADER, PlannedLoad(one, memory(one), on), memory, lambda _: off).load

    assert chosen(80.0, 60.0).flash_attention == "auto"
    assert chosen(60.0, 80.0).flash_attention == "off"


def test_quantised_values_keep_it():
    assert choice(load(batch=1, kv_type="q8_0"), without()) == "auto"


def test_latent_attention_keeps_it():
    layers = tuple(replace(layer, v_width=0) for layer in HEADER.layers)
    one, predict = load(batch=1), partial(speed, without())
    planned = PlannedLoad(one, Memory().memory(one), predict(one))
    found = settled(replace(HEADER, layers=layers), planned, Memory().memory, predict)
    assert found == planned


def test_not_at_the_price_of_much_memory_or_of_what_is_not_there():
    one = load(batch=1)
    with_it = Memory().memory(one).needed_bytes
    costly = int(MORE_SHARE * with_it / one.window.kv_pool_tokens) + 1
    assert choice(one, without(), Memory(score_bytes=costly)) == "auto"
    assert choice(one, without(), Memory(free_bytes=with_it)) == "auto"


def test_a_search_finds_the_same_windows_as_with_flash_attention_alone():
    """What fits is decided with it; without it is a matter of speed."""
    memory, machine = Memory(free_bytes=600 * MIB), a_machine(600 * MIB)
    goal = Goal(ctx=2048)
    free = plan_windows(HEADER, machine, memory, partial(speed, without(1e-9)), goal)
    held = plan_windows(
        HEADER, machine, memory, partial(speed, without(1e-9)), goal,
        template=Load(Window(1, 512, 512), flash_attention="on"),
    )  # fmt: skip
    assert [sizes(one) for one in free.loads] == [sizes(one) for one in held.loads]
    assert {one.load.flash_attention for one in free.loads} == {"auto", "off"}


def sizes(planned: PlannedLoad) -> tuple[int, int]:
    return planned.load.window.batch_size, planned.load.window.ctx


def test_without_it_steps_are_small_because_their_scores_are_stored():
    one, predict = load(batch=1), partial(speed, without())
    planned = PlannedLoad(one, Memory().memory(one), predict(one))
    found = settled(HEADER, planned, Memory().memory, predict)
    assert found.load.window.step_tokens == 64 < one.window.step_tokens


def test_without_it_a_row_pays_for_the_cells_of_others():
    planner = Planner(HEADER, without())
    model = planner.model(replace(load(), flash_attention="off"))
    alone = model.attention_s(batch_of([Part(1, 1, 1000)]))
    beside = model.attention_s(batch_of([Part(1, 1, 1000)], parked_cells=10 * 1024))
    assert beside == pytest.approx(11 * alone, rel=0.02)
    both = model.attention_s(batch_of([Part(2, 1, 1000)]))
    assert both == pytest.approx(4 * alone, rel=0.02)


def test_what_serving_taught_of_one_way_does_not_turn_the_choice():
    """Only the way that was served is taught; the other would win by its ignorance."""
    one, taught = load(batch=2, ctx=2048), Refinement()
    for rows in (1, 2, 3, 64):
        for _ in range(50):
            taught.observe(rows, 1.0, 0.5, flash=True)
            taught.observe(rows, 1.0, 1.0, flash=False)
    planner = Planner(HEADER, without(3e-9), taught)
    predict = partial(planner.predict, fill_tokens=1024, prompt_tokens=256)
    planned = PlannedLoad(one, Memory().memory(one), predict(one))
    assert planned.speed is not None
    off = predict(replace(one, flash_attention="off"))
    assert planned.speed.total_tok_s.value > off.total_tok_s.value, "it was taught"
    found = settled(HEADER, planned, Memory().memory, predict)
    assert found.load.flash_attention == "off"


def test_pieces_that_are_dear_beside_others_count_against_flash_attention(monkeypatch):
    """A long prompt beside three streams: below 64 rows flash attention goes cell by cell, and
    whole tiles would hold the streams up (by the gap that is set here)."""
    monkeypatch.setattr(pacer, "MIXED_S", 0.07)
    known, one = with_few_rows(without(3e-9), 30e-9), load(batch=4, ctx=4096)
    planner = Planner(HEADER, known)
    beside_s = row_beside_s(planner.model(one), Neighbours(3, 1024), 2048, 256)
    alone_s = prompt_s(planner.model(one), 4096, 256) / 4096
    assert beside_s > 2 * alone_s
    plan = planner.predict(one, fill_tokens=1024, prompt_tokens=256)
    answers_s = ANSWER_TOKENS / plan.total_tok_s.value
    assert plan.full_request_s == pytest.approx(answers_s + 256 * beside_s, rel=0.01)


def with_few_rows(known: Calibration, cell_s: float) -> Calibration:
    """Flash attention below a tile takes cell_s for a cell and row."""
    few = Curve((2, 63), (cell_s, cell_s), (0.01, 0.01))
    return replace(known, attention=tuple(replace(cost, few=few) for cost in known.attention))


def test_the_border_is_the_same_for_few_and_many_sequences():
    gained = {batch: predicted_gain(load(batch=batch, ctx=1024), 2e-9) for batch in (4, 8)}
    assert gained[8] < LEAST_GAIN < gained[4], gained
    assert choice(load(batch=4, ctx=1024), without(1.5e-9)) == "off"
    assert choice(load(batch=8, ctx=1024), without(2e-9)) == "auto"
    assert choice(load(batch=8, ctx=1024), without(1e-9)) == "off"


def test_a_gain_in_full_batches_may_cost_one_by_one_a_tenth_and_no_more():
    """Also where what is faster in full batches is so by far."""
    with_it = replace(speed(without(), load(batch=4)), request_s=1.0, full_request_s=2.0)
    for alone_s, gain in ((1.0, 2.0), (1.1, 2.0), (1.2, 1 / 1.2)):
        other = replace(with_it, request_s=alone_s, full_request_s=1.0)
        assert _gain(with_it, other) == pytest.approx(gain)


def predicted_gain(one: Load, cell_s: float) -> float:
    known = without(cell_s)
    return _gain(speed(known, one), speed(known, replace(one, flash_attention="off")))
