"""The pick always fits, is the best there is by the stated rule, and never suffers from memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.errors import BadSetting
from okno.core.load import Load
from okno.core.plan import PlannedLoad
from okno.core.window import Window
from okno.plan.goals import AUTO_KV_TYPES, PREFERENCES, Goal, Key, key_of
from okno.plan.search import (
    BATCHES,
    LOAD,
    Plan,
    ctx_ladder,
    fits,
    grid_ctxs,
    plan_windows,
    system_room_bytes,
    window_of,
)
from tests.plan.fakes import MIB, KneeSpeed, LinearMemory, a_header, a_machine, figure

HEADER = a_header()
mebibytes = st.integers(300, 6000)
goals = st.builds(
    Goal,
    prefer=st.sampled_from(PREFERENCES),
    max_ttft_s=st.none() | st.floats(0.1, 100),
    min_tok_s=st.none() | st.floats(0.1, 100),
    batch_size=st.none() | st.integers(1, 256),
    ctx=st.none() | st.integers(16, 10_000),
    kv_types=st.sampled_from([(), ("f16",), ("q8_0",), ("f16", "q4_0")]),
    depth_ctx=st.none() | st.integers(16, 10_000),
)
speeds = st.none() | st.builds(
    KneeSpeed,
    step_s=st.floats(0.001, 1),
    knee=st.integers(1, 64),
    prefill_tok_s=st.floats(1, 5000),
)
ctx_trains = st.integers(16, 40_000)


def plan(free_mib: int, speed=None, goal: Goal | None = None, header=HEADER) -> Plan:
    goal = goal or Goal()
    machine = a_machine(free_mib * MIB)
    return plan_windows(header, machine, LinearMemory(free_mib * MIB), speed, goal)


def everything(free_mib: int, speed, goal: Goal, ctx_train: int, room_bytes: int):
    """Every window that may be picked and fits, computed one by one."""
    memory = LinearMemory(free_mib * MIB)
    batches = (goal.batch_size,) if goal.batch_size else BATCHES
    rungs = {*ctx_ladder(ctx_train), *grid_ctxs(ctx_train)}
    if goal.depth_ctx and goal.depth_ctx <= ctx_train:
        rungs.add(goal.depth_ctx)
    ctxs = (goal.ctx,) if goal.ctx else sorted(rungs)
    for kv_type, batch, ctx in product(goal.kv_types or AUTO_KV_TYPES, batches, ctxs):
        load = window_of(LOAD, batch, ctx, kv_type)
        if fits(memory.memory(load), room_bytes):
            yield PlannedLoad(load, memory.memory(load), speed(load) if speed else None)


@given(mebibytes, speeds, goals, ctx_trains)
def test_nothing_that_fits_is_better_than_the_pick(free_mib, speed, goal, ctx_train):
    found = plan(free_mib, speed, goal, a_header(ctx_train))
    key = key_of(goal, ctx_train)
    room_bytes = 0 if found.is_tight else found.room_bytes
    others = list(everything(free_mib, speed, goal, ctx_train, room_bytes))
    assert (found.pick is None) == (not others)
    if found.pick:
        assert found.pick.memory.fits
        assert key(found.pick) == max(map(key, others))


def key_or_nothing(found: Plan, goal: Goal, ctx_train: int) -> Key:
    """A window without the system's room is worse than any with it, and none is worst."""
    if found.pick is None:
        return ()
    return (0 if found.is_tight else 1, *key_of(goal, ctx_train)(found.pick))


@given(mebibytes, mebibytes, speeds, goals, ctx_trains)
def test_more_memory_never_gives_a_worse_pick(one, other, speed, goal, ctx_train):
    less, more = sorted((one, other))
    header = a_header(ctx_train)
    keys = [
        key_or_nothing(plan(free, speed, goal, header), goal, ctx_train) for free in (less, more)
    ]
    assert keys[0] <= keys[1]


@given(mebibytes, speeds, goals)
def test_the_same_question_has_the_same_answer(free_mib, speed, goal):
    assert plan(free_mib, speed, goal) == plan(free_mib, speed, goal)


@given(mebibytes, speeds, goals)
def test_what_was_asked_for_is_kept(free_mib, speed, goal):
    found = plan(free_mib, speed, goal)
    for planned in [*found.loads, *([found.pick] if found.pick else [])]:
        window = planned.load.window
        assert goal.batch_size in (None, window.batch_size)
        assert goal.ctx in (None, window.ctx)
        assert window.kv_type in (goal.kv_types or AUTO_KV_TYPES)
        assert window.kv_pool_tokens == window.batch_size * window.ctx
        assert window.step_tokens >= window.batch_size


@given(mebibytes, speeds, goals)
def test_every_pick_is_explained_in_sentences(free_mib, speed, goal):
    why = plan(free_mib, speed, goal).why
    assert why
    assert all(reason.endswith(".") and not reason[0].islower() for reason in why)


@given(ctx_trains)
def test_every_window_of_the_table_may_be_picked(ctx_train):
    assert set(grid_ctxs(ctx_train)) <= set(ctx_ladder(ctx_train))
    assert ctx_ladder(ctx_train)[-1] == ctx_train


def test_speed_stops_where_more_sequences_bring_no_more_tokens():
    window = plan(8000, KneeSpeed(knee=8), Goal(max_ttft_s=1000, min_tok_s=0.1)).pick.load.window
    assert window.batch_size == 8


def test_a_limit_on_the_first_token_bounds_the_batch():
    speed = KneeSpeed(prefill_tok_s=512)  # 1 s a prompt
    window = plan(8000, speed, Goal(max_ttft_s=4, min_tok_s=0.1)).pick.load.window
    assert window.batch_size == 4


def test_a_floor_per_user_bounds_the_batch():
    speed = KneeSpeed(step_s=0.02, knee=1, prefill_tok_s=1e6)
    found = plan(8000, speed, Goal("users", min_tok_s=10))
    assert found.pick.speed.user_tok_s.value >= 10
    assert found.pick.load.window.batch_size == 4


def test_users_are_as_many_as_get_the_floor_even_when_tokens_in_all_fall():
    speed = KneeSpeed(step_s=0.02, knee=8, prefill_tok_s=1e6)
    generous = {"max_ttft_s": 1000.0, "min_tok_s": 1.0}
    users = plan(8000, speed, Goal("users", **generous)).pick
    fastest = plan(8000, speed, Goal("speed", **generous)).pick
    assert users.load.window.batch_size > fastest.load.window.batch_size


def test_context_takes_the_widest_window_even_for_one():
    found = plan(400 + 8 + 64 + 1 + 8 * 4, None, Goal("context", kv_types=("f16",)))
    assert found.pick.load.window == window_of(LOAD, 1, 4096, "f16").window


def test_quality_stops_where_depth_gains_nothing_and_keeps_16_bits():
    window = plan(8000, KneeSpeed(), Goal("quality", depth_ctx=2048)).pick.load.window
    assert (window.ctx, window.kv_type) == (2048, "f16")
    assert plan(8000, KneeSpeed(), Goal("quality")).pick.load.window.ctx == 8192


def test_kv_of_fewer_bits_is_taken_only_where_it_is_needed_for_a_useful_window():
    plenty = plan(8000, KneeSpeed()).pick.load.window
    assert plenty.kv_type == "f16"
    needed = plan(400 + 8 + 64 + 1 + 20, KneeSpeed())
    assert (needed.pick.load.window.kv_type, needed.pick.load.window.ctx) == ("q8_0", 4608)
    assert any("KV is q8_0 because" in reason for reason in needed.why)


def test_limits_nobody_can_meet_are_missed_by_as_little_as_possible_and_it_is_said():
    slow = KneeSpeed(step_s=1.0, prefill_tok_s=10)
    found = plan(8000, slow, Goal())
    assert not found.meets_limits
    assert found.pick.load.window.batch_size == 1
    assert any("Nothing that fits meets all limits" in reason for reason in found.why)


def test_limits_that_were_given_count_before_okno_s_own():
    """Each window misses one limit: the one that misses what was asked is worse."""
    memory = LinearMemory(8 << 30).memory(LOAD)
    speed = KneeSpeed()(LOAD)
    prompt, quick = (
        PlannedLoad(
            LOAD, memory, replace(speed, ttft_loaded_s=figure(ttft), user_tok_s=figure(rate))
        )
        for ttft, rate in ((1.5, 1.0), (4.0, 6.0))
    )
    for goal, better, worse in (
        (Goal(max_ttft_s=2), prompt, quick), (Goal(min_tok_s=5, max_ttft_s=None), quick, prompt)
    ):  # fmt: skip
        key = key_of(goal, 8192)
        assert key(better) > key(worse)


def test_where_nothing_fits_there_is_no_pick():
    found = plan(350)
    assert (found.pick, found.is_tight) == (None, False)
    assert "No window of this model fits" in found.why[0]


def test_what_fits_without_the_system_s_room_is_used_and_called_tight():
    found = plan(400 + 8 + 1 + 20)
    assert found.is_tight
    assert found.pick.memory.fits
    assert not found.comfortable(found.pick)


def test_a_whole_machine_keeps_more_room_than_a_cgroup():
    assert system_room_bytes(a_machine(16 << 30, "/sys/fs/cgroup/x")) == 64 * MIB
    assert system_room_bytes(a_machine(16 << 30, "machine")) == int(0.02 * (16 << 30))
    assert system_room_bytes(a_machine(256 << 30, "machine")) == 512 * MIB


def test_each_window_is_computed_once_and_a_grid_needs_few():
    memory = LinearMemory(2000 * MIB)
    found = plan_windows(a_header(131_072), a_machine(2000 * MIB), memory, None, Goal())
    assert memory.n_asked == found.n_tried
    assert found.n_tried < 500


def test_what_is_not_searched_comes_from_the_template():
    template = Load(Window(1, 512, 512, step_tokens=64), mmap=True, gpu_layers=12)
    memory = LinearMemory(2000 * MIB)
    found = plan_windows(HEADER, a_machine(), memory, None, Goal(), template=template)
    assert replace(found.pick.load, window=template.window) == template
    assert found.pick.load.window.step_tokens == 64


@pytest.mark.parametrize(
    "fields",
    [
        {"prefer": "luck"}, {"batch_size": 0}, {"batch_size": 257}, {"ctx": 15},
        {"max_ttft_s": 0.0}, {"min_tok_s": -1.0}, {"min_tok_s": float("nan")},
        {"prompt_tokens": 0}, {"fill_tokens": -1},
    ],
)  # fmt: skip
def test_goals_that_mean_nothing_are_refused(fields):
    with pytest.raises(BadSetting):
        Goal(**fields)
