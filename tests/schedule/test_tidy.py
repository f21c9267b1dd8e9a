"""Moving what lies in the pool for nothing: parked sequences out, high ones down."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.schedule.cost import Ahead
from okno.schedule.step import Limits, Restore, Share
from okno.schedule.tidy import lost_s, next_to_tidy, pays, tidy
from tests.schedule.mirror import check_books
from tests.schedule.run import Run, alone

Talk = tuple[int, int, list[int], int]
Round = tuple[list[Talk], int | None, int, int, int]

WALKED = Limits(batch_size=4, seq_ids=12, pool_cells=800, host_bytes=2000, walk_cells=8)


def tidy_one(run: Run) -> bool:
    """One piece, as engine and loop do it."""
    scheduler = run.scheduler
    found = next_to_tidy(scheduler)
    if found is None:
        return False
    tidy(scheduler, found)
    run.cache.apply(scheduler.cache.take_operations())
    check_books(scheduler, run.cache)
    return True


def tidy_all(run: Run) -> int:
    """Returns the number of pieces."""
    for count in range(1000):
        if not tidy_one(run):
            return count
    raise AssertionError("tidying does not come to an end")


def finished(run: Run, *ids: str, prompt: int = 30) -> None:
    for id in ids:
        run.add(id, [ord(id[0]) % 50] * prompt, answer=4)
        run.finish()


def test_an_idle_pool_is_emptied_and_nothing_is_computed_again() -> None:
    run = Run(WALKED)
    finished(run, "a", "b", "c")
    assert tidy_all(run) == 3
    assert (run.scheduler.pool.end, len(run.scheduler.host.held)) == (0, 3)
    run.add("b2", [*run.done["b"], 7, 7], answer=2)
    step = run.step()
    assert [type(operation) for operation in step.operations] == [Restore, type(step.operations[1])]
    assert run.cached["b2"] == 33
    assert run.scheduler.pool.end < 40
    run.finish()
    assert run.done["b2"] == alone([*alone([98 % 50] * 30, 4), 7, 7], 2)


def test_what_is_worth_most_moves_first_and_drives_nothing_better_out() -> None:
    run = Run(replace(WALKED, host_bytes=60))
    finished(run, "a", "b", "c")
    run.add("a2", [*run.done["a"], 7], answer=2)
    run.finish()
    tidy_one(run)
    assert [s.id for s in run.scheduler.host.held.values()] == ["a2"]
    tidy_all(run)
    assert [s.id for s in run.scheduler.host.held.values()] == ["a2"]  # 24 are left
    assert {s.id for s in run.scheduler.parked.values()} == {"b", "c"}
    assert run.scheduler.pool.end == 66


def test_a_fresh_conversation_takes_the_place_of_a_stale_one() -> None:
    run = Run(replace(WALKED, host_bytes=40))
    finished(run, "a")
    tidy_all(run)
    finished(run, "b")
    tidy_all(run)
    assert [s.id for s in run.scheduler.host.held.values()] == ["b"]
    assert run.scheduler.pool.end == 0


def test_what_host_memory_holds_is_not_forgotten_while_something_worth_less_is_parked() -> None:
    run = Run(replace(WALKED, host_bytes=40))
    finished(run, "a", "b")
    tidy_all(run)  # a has no room
    finished(run, "c")
    tidy_all(run)
    assert [s.id for s in run.scheduler.host.held.values()] == ["b"]
    assert {s.id for s in run.scheduler.parked.values()} == {"a", "c"}


def test_too_large_a_state_stays_and_the_others_move() -> None:
    run = Run(replace(WALKED, host_bytes=60))
    finished(run, "large", prompt=100)
    finished(run, "small")
    tidy_all(run)
    assert [s.id for s in run.scheduler.host.held.values()] == ["small"]
    assert [s.id for s in run.scheduler.parked.values()] == ["large"]


def test_a_prefix_too_short_for_host_memory_does_not_hold_the_pool_up() -> None:
    run = Run(WALKED)
    finished(run, "long", prompt=60)
    finished(run, "short", prompt=9)
    tidy_all(run)
    assert run.scheduler.pool.end == 0


def test_without_host_memory_parked_prefixes_stay() -> None:
    run = Run(replace(WALKED, host_bytes=0))
    finished(run, "a", "b")
    assert tidy_all(run) == 0
    assert len(run.scheduler.parked) == 2


def test_cells_that_nobody_walks_for_nothing_stay_where_they_are() -> None:
    for walk_cells in (0, 256):
        run = Run(replace(WALKED, walk_cells=walk_cells))
        finished(run, "a", "b")
        assert tidy_all(run) == 0


def test_what_is_left_high_after_its_neighbours_have_ended_is_packed() -> None:
    run = Run(replace(WALKED, parks=False))
    for k in range(3):
        run.add(f"r{k}", [k] * 60, answer=4)
    run.add("last", [9] * 60, answer=40)
    while len(run.done) < 3:
        run.step(budget=64)
    assert run.scheduler.pool.end > 180
    assert tidy_all(run) == 1
    assert run.scheduler.pool.end < 72
    run.finish()
    assert run.done["last"] == alone([9] * 60, 40)


def test_sequences_that_share_cells_are_not_packed_apart() -> None:
    run = Run(replace(WALKED, parks=False))
    run.add("first", [1] * 90, answer=2)
    for k in range(2):
        run.add(f"r{k}", [9] * 60, answer=40)
    while "first" not in run.done or len(run.scheduler.live) < 2:
        run.step(budget=64)
    used = run.scheduler.pool.used
    tidy_all(run)
    assert run.scheduler.pool.used == used


def test_a_system_prompt_that_comes_back_twice_is_kept_once() -> None:
    run = Run(WALKED)
    system = list(range(40))
    for k in range(2):
        run.add(f"r{k}", [*system, *([k] * 20)], answer=3)
        run.finish()
    tidy_all(run)
    for k in range(2):
        run.add(f"next{k}", [*run.done[f"r{k}"], 5], answer=8)
    run.step(budget=64)
    operations = [operation for step in run.steps for operation in step.operations]
    assert sum(isinstance(operation, Restore) for operation in operations) == 2
    assert sum(isinstance(operation, Share) for operation in operations) == 1
    assert run.scheduler.pool.used <= 40 + 2 * 25
    run.finish()
    assert run.done["next1"] == alone([*alone([*system, *([1] * 20)], 3), 5], 8)
    tidy_all(run)
    assert run.scheduler.pool.used == 0


def test_a_prefix_of_a_stored_conversation_leaves_the_conversation_stored() -> None:
    run = Run(WALKED)
    system = list(range(40))
    run.add("talk", [*system, *([1] * 60)], answer=3)
    run.finish()
    tidy_all(run)
    run.add("other", [*system, 7, 7], answer=3)
    run.finish()
    tidy_all(run)
    run.add("talk2", [*run.done["talk"], 5], answer=3)
    run.finish()
    assert (run.cached["other"], run.cached["talk2"]) == (40, 102)


@dataclass
class Walk:
    """cost.StepCost: a step costs what it walks."""

    cell_s: float

    def seconds(self, ahead: Ahead, prompt_rows: int) -> float:
        return self.cell_s * ahead.used_cells


def test_beside_live_sequences_it_has_to_pay() -> None:
    run = Run(WALKED)
    finished(run, "a", "b", "c")
    run.add("live", [9] * 20, answer=40)
    for _ in range(3):
        run.step()
    each_s = lost_s(run.scheduler, Walk(1e-6))
    assert each_s > 0
    assert pays(run.scheduler, each_s, before_s=0.0, byte_s=1e-7)
    assert not pays(run.scheduler, each_s, before_s=0.0, byte_s=1e-3)
    assert pays(run.scheduler, each_s, before_s=1.0, byte_s=1e-3)
    tidy_all(run)
    assert lost_s(run.scheduler, Walk(1e-6)) == 0
    assert not pays(run.scheduler, 0.0, before_s=1.0, byte_s=1e-7)
    assert run.scheduler.pool.end < 32
    run.finish()
    assert run.done["live"] == alone([9] * 20, 40)


tidy_limits = st.builds(
    Limits,
    batch_size=st.integers(1, 4),
    seq_ids=st.integers(4, 9),
    pool_cells=st.sampled_from([60, 90, 200]),
    copies=st.sampled_from([True, True, False]),
    truncates=st.sampled_from([True, True, False]),
    parks=st.sampled_from([True, True, False]),
    host_bytes=st.sampled_from([0, 40, 100, 1000]),
    walk_cells=st.sampled_from([1, 8, 32]),
)
talks = st.tuples(
    st.integers(0, 1),  # which system prompt
    st.integers(10, 30),  # how much of it
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
    st.integers(1, 12),  # answer length
)
rounds = st.lists(
    st.tuples(
        st.lists(talks, min_size=1, max_size=3),  # what arrives
        st.sampled_from([None, None, 1, 2, 4, 8]),  # steps, None: until all is done
        st.integers(0, 12),  # pieces of tidying
        st.integers(-1, 3),  # right drafts
        st.integers(0, 40),  # who leaves
    ),
    min_size=2, max_size=12,
)  # fmt: skip


@pytest.mark.timeout(300)
@settings(max_examples=300, deadline=None)
@given(tidy_limits, rounds, st.integers(1, 40))
def test_tidying_at_any_time_loses_and_mixes_no_token(
    limits: Limits, rounds: list[Round], budget: int
) -> None:
    systems = [[(p * 7 + i) % 50 for i in range(30)] for p in range(2)]
    run = Run(limits)
    expected: dict[str, list[int]] = {}
    for arriving, steps, pieces, right, leaves in rounds:
        for system, take, tail, answer in arriving:
            id, prompt = f"r{len(run.texts)}", systems[system][:take] + tail
            run.add(id, prompt, answer)
            expected[id] = alone(prompt, answer)
        for _ in range(steps or 0):
            run.step(budget, right=right)
        run.scheduler.cancel(f"r{leaves}")
        if f"r{leaves}" not in run.done:
            expected.pop(f"r{leaves}", None)
        if steps is None:
            run.finish(budget, right)
        for _ in range(pieces):
            tidy_one(run)
    run.finish(budget)
    assert {id: run.done[id] for id in expected} == expected
    tidy_all(run)
    assert run.scheduler.host.used_bytes <= limits.host_bytes
    parked = [s.cells.view() for s in run.scheduler.parked.values()]
    assert run.scheduler.pool.used == run.scheduler.pool.distinct(parked)
