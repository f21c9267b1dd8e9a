from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.core.errors import WindowInUse
from okno.schedule.resize import adopt, check_room, make_fit, moves
from okno.schedule.step import Limits
from tests.schedule.mirror import check_books
from tests.schedule.run import UNIFIED, Run, alone
from tests.schedule.test_scheduler import actions, limits


def resize(run: Run, to: Limits, *, moved: bool = True, keeps_stored: bool = True) -> None:
    """As engine and loop do it. moved False: the engine could not move the states."""
    scheduler = run.scheduler
    if moved:
        make_fit(scheduler, to)
    run.cache.apply(scheduler.cache.take_operations())
    found = moves(scheduler, to) if moved else None
    run.cache.resize(to, found)
    adopt(scheduler, to, found, keeps_stored=keeps_stored)
    run.cache.apply(scheduler.cache.take_operations())
    run.limits = to
    check_books(scheduler, run.cache)


def computed(run: Run, since: int) -> int:
    return sum(step.rows for step in run.steps[since:])


def test_a_larger_window_takes_all_along_and_nothing_is_computed_again() -> None:
    run = Run(replace(UNIFIED, batch_size=2))
    for k in range(3):
        run.add(f"r{k}", [k] * 20, answer=8)
    for _ in range(4):
        run.step(budget=64)
    before, since = run.scheduler.pool.used, len(run.steps)
    resize(run, Limits(batch_size=3, seq_ids=12, pool_cells=600))
    assert run.scheduler.pool.used == before
    run.finish()
    assert computed(run, since) == 2 * (8 - 4) + 20 + 7
    assert run.done == {f"r{k}": alone([k] * 20, 8) for k in range(3)}


def test_with_fewer_slots_the_youngest_wait_and_take_their_part_over_again() -> None:
    run = Run()
    for k in range(4):
        run.add(f"r{k}", [k] * 20, answer=8)
    for _ in range(6):
        run.step(budget=64)
    since = len(run.steps)
    resize(run, replace(UNIFIED, batch_size=1))
    assert list(run.scheduler.live) == ["r0"]
    assert [s.id for s in run.scheduler.waiting] == ["r1", "r2", "r3"]
    run.add("late", [9] * 20, answer=2)
    run.finish()
    assert list(run.done) == ["r0", "r1", "r2", "r3", "late"]
    assert computed(run, since) <= 4 * 8 + 20 + 2
    assert run.done["r3"] == alone([3] * 20, 8)


def test_shared_prefixes_stay_shared() -> None:
    run = Run()
    for k in range(4):
        run.add(f"c{k}", [*range(40), k], answer=8)
    run.step(budget=64)
    run.step(budget=64)
    assert run.scheduler.pool.used < 2 * 41
    resize(run, Limits(batch_size=4, seq_ids=6, pool_cells=75))
    assert len(run.scheduler.live) == 4
    run.finish()
    assert run.scheduler.preemptions == 0


def test_parked_prefixes_go_first_and_the_latest_used_stay() -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    for k in range(4):
        run.add(f"r{k}", [k] * 20, answer=4)
        run.finish()
    run.add("live", [9] * 10, answer=9)
    run.step()
    resize(run, Limits(batch_size=1, seq_ids=3, pool_cells=200))
    assert [s.id for s in run.scheduler.parked.values()] == ["r2", "r3"]
    assert run.scheduler.preemptions == 0


def test_a_pool_too_small_for_the_live_sends_the_youngest_back() -> None:
    run = Run()
    for k in range(4):
        run.add(f"r{k}", [k] * 20, answer=20)
    for _ in range(10):
        run.step(budget=64)
    resize(run, Limits(batch_size=4, seq_ids=8, pool_cells=70))
    assert list(run.scheduler.live) == ["r0", "r1"]
    run.finish()
    assert run.done == {f"r{k}": alone([k] * 20, 20) for k in range(4)}


def test_states_that_could_not_move_are_computed_again_and_texts_go_on() -> None:
    run = Run()
    for k in range(3):
        run.add(f"r{k}", [k] * 20, answer=8)
    for _ in range(4):
        run.step(budget=64)
    resize(run, UNIFIED, moved=False)
    assert run.scheduler.pool.used == 0
    assert [s.id for s in run.scheduler.waiting] == ["r0", "r1", "r2"]
    run.finish()
    assert run.done == {f"r{k}": alone([k] * 20, 8) for k in range(3)}


def test_a_window_too_small_for_what_was_promised_is_refused_with_the_numbers() -> None:
    run = Run()
    run.add("short", [1] * 20, answer=4)
    run.add("live", [2] * 20, answer=30)
    run.step()
    run.add("waiting", [3] * 20, answer=60)
    check_room(run.scheduler, 80)
    with pytest.raises(WindowInUse) as refused:
        check_room(run.scheduler, 48)
    details = refused.value.info.details
    assert details == {"ctx": 48, "n_requests": 2, "largest_tokens": 80}
    run.scheduler.cancel("live")
    run.scheduler.cancel("waiting")
    check_room(run.scheduler, 48)


def test_states_in_host_memory_come_along_and_make_room() -> None:
    roomy = replace(UNIFIED, batch_size=1, seq_ids=2, pool_cells=64, host_bytes=100)
    run = Run(roomy)
    for k in range(4):
        run.add(f"r{k}", [k] * 30, answer=2)
        run.finish()
    assert len(run.scheduler.host.held) == 2
    resize(run, replace(roomy, seq_ids=4, pool_cells=128, host_bytes=40))
    assert [s.id for s in run.scheduler.host.held.values()] == ["r1"]
    run.add("again", [*[1] * 30, *run.done["r1"][30:], 5], answer=2)
    run.finish()
    assert run.cached["again"] == 31
    resize(run, roomy, moved=False, keeps_stored=False)
    assert run.scheduler.host.held == {}
    assert run.scheduler.host.used_bytes == 0


resizes = st.tuples(st.just("resize"), limits, st.booleans(), st.booleans())


@settings(max_examples=400, deadline=None)
@given(limits, actions, st.lists(st.tuples(st.integers(0, 60), resizes), max_size=6),
       st.integers(1, 40))  # fmt: skip
def test_no_resize_loses_repeats_or_mixes_tokens(
    first: Limits, actions: list[object], inserts: list[tuple[int, object]], budget: int
) -> None:
    for place, action in inserts:
        actions.insert(place, action)
    prefixes = [[(p * 7 + i) % 50 for i in range(30)] for p in range(4)]
    run = Run(first)
    expected: dict[str, list[int]] = {}
    for action in actions:
        match action:
            case ("step", int(right)):
                run.step(budget, right=right)
            case ("cancel", int(which)):
                run.scheduler.cancel(f"r{which}")
                if f"r{which}" not in run.done:
                    expected.pop(f"r{which}", None)
            case ("resize", Limits() as other, bool(moved), bool(keeps)):
                same_model = replace(
                    other, copies=first.copies, truncates=first.truncates, parks=first.parks
                )
                resize(run, same_model, moved=moved, keeps_stored=keeps)
            case (int(p), int(take), list(tail), int(answer), client, str(salt), float(weight)):
                id = f"r{len(run.texts)}"
                prompt = prefixes[p][:take] + tail
                run.add(id, prompt, answer, client=str(client), salt=salt, weight=weight)
                expected[id] = alone(prompt, answer)
    run.finish(budget)
    assert {id: run.done[id] for id in expected} == expected
    parked = [s.cells.view() for s in run.scheduler.parked.values()]
    assert run.scheduler.pool.used == run.scheduler.pool.distinct(parked)
    stored = (run.limits.stored_bytes(s.host_tokens) for s in run.scheduler.host.held.values())
    assert run.scheduler.host.used_bytes == sum(stored) <= run.limits.host_bytes
