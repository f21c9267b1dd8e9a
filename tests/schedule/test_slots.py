"""Whose request gets a slot when there are more clients than slots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from okno.schedule.cache import Reuse
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits
from tests.schedule.run import UNIFIED, Run, alone


def long_flood() -> Run:
    """Twelve long prompts of one client for eight slots."""
    run = Run(Limits(batch_size=8, seq_ids=20, pool_cells=8000))
    for k in range(12):
        run.add(f"flood{k}", [k] * 300, answer=20, client="flood")
    return run


def flooded(slots: int, requests: int) -> Run:
    """`requests` of one client for `slots`, six steps on: every slot is its own."""
    run = Run(Limits(batch_size=slots, seq_ids=20, pool_cells=2000))
    for k in range(requests):
        run.add(f"flood{k}", [k] * 20, answer=60, client="flood")
    for _ in range(6):
        run.step(budget=64)
    return run


def test_a_client_that_floods_does_not_starve_another() -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    for k in range(20):
        run.add(f"flood{k}", [k] * 30, answer=2, client="flood")
    run.step()
    run.add("other", [9] * 5, answer=2, client="quiet")
    while "other" not in run.done:
        run.step()
    assert len(run.done) <= 3


def test_a_client_with_every_slot_gives_one_to_a_client_with_none() -> None:
    run = Run(replace(UNIFIED, batch_size=3))
    for k in range(6):
        run.add(f"flood{k}", [k] * 20, answer=30, client="flood")
    for _ in range(6):
        run.step(budget=32)
    assert len(run.scheduler.live) == 3
    run.add("other", [9] * 5, answer=2, client="quiet")
    run.step(budget=32)
    run.step(budget=32)
    assert "other" in run.done or "other" in run.scheduler.live
    run.finish(budget=32)
    assert all(run.done[f"flood{k}"] == alone([k] * 20, 30) for k in range(6))


def test_a_flood_of_long_prompts_leaves_another_its_part_of_every_step() -> None:
    run = long_flood()
    for _ in range(20):  # so much work that a short one is due after all that wait
        run.step(budget=32)
    run.add("other", [9] * 40, answer=2, client="quiet")
    for _ in range(6):
        run.step(budget=32)
    assert len(run.texts["other"]) > 40
    run.finish(budget=64)
    assert all(run.done[f"flood{k}"] == alone([k] * 300, 20) for k in range(12))


def test_who_comes_often_beside_a_flood_gets_a_slot_at_once_each_time() -> None:
    """Also when its counter is higher than the flood's, whose next prompt waits for a slot."""
    run = long_flood()
    run.step(budget=64)
    for k in range(3):
        run.add(f"other{k}", [9, k] * 20, answer=100, client="quiet")
        run.step(budget=64)
        assert f"other{k}" in run.scheduler.live
    run.finish(budget=64)
    assert all(run.done[f"flood{k}"] == alone([k] * 300, 20) for k in range(12))


def test_who_got_a_slot_of_a_flood_does_not_stand_behind_it_then() -> None:
    """What the flood was served is remembered, although nobody else waits meanwhile."""
    run = flooded(slots=3, requests=3)
    run.add("other0", [9] * 10, answer=60, client="a quiet one")
    run.step(budget=64)
    assert "other0" in run.scheduler.live
    run.add("other1", [8] * 10, answer=60, client="a quiet one")
    assert run.scheduler.position("other1") == 0


def test_with_every_slot_taken_a_step_looks_at_as_many_as_there_are_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(Limits(batch_size=2, seq_ids=10, pool_cells=80))
    for k in range(2):
        run.add(f"flood{k}", [k] * 20, answer=10, client="flood")
    run.step(budget=64)
    for k in range(30):
        run.add(f"other{k}", [9, k] * 30, client=f"client{k}")
    looked, best_reuse = [], run.scheduler.cache.best_reuse

    def looking(sequence: Sequence) -> Reuse | None:
        looked.append(sequence.id)
        return best_reuse(sequence)

    monkeypatch.setattr(run.scheduler.cache, "best_reuse", looking)
    run.step(budget=64)
    assert set(run.scheduler.live) == {"flood0", "flood1"}
    assert 0 < len(looked) <= 2
    run.finish(budget=64)


@pytest.mark.parametrize("change", [{"parks": False}, {"copies": False}])
def test_where_no_prefix_is_shared_nobody_waits_for_one(change: dict[str, bool]) -> None:
    run = Run(replace(UNIFIED, batch_size=3, **change))
    for k in range(3):
        run.add(f"r{k}", [1] * 12)
    run.step(budget=64)
    assert len(run.scheduler.live) == 3
    run.finish()


def test_two_clients_with_enough_to_do_share_the_slots() -> None:
    run = flooded(slots=6, requests=8)
    for k in range(5):
        run.add(f"other{k}", [9, k] * 5, answer=30, client="quiet")
    for _ in range(20):
        run.step(budget=64)
    live = [sequence.client for sequence in run.scheduler.live.values()]
    assert (live.count("flood"), live.count("quiet")) == (3, 3)
    run.finish(budget=64)
    assert all(run.done[f"flood{k}"] == alone([k] * 20, 60) for k in range(8))


def test_one_client_alone_keeps_its_slots() -> None:
    run = Run(replace(UNIFIED, batch_size=2))
    for k in range(4):
        run.add(f"r{k}", [k] * 10, answer=10)
    run.step()
    first = set(run.scheduler.live)
    for _ in range(5):
        run.step()
        assert set(run.scheduler.live) == first


def test_low_priority_gives_way_and_comes_back_whole() -> None:
    run = Run(replace(UNIFIED, batch_size=1))
    run.add("batch job", [1] * 20, answer=20, weight=0.25)
    for _ in range(5):
        run.step()
    run.add("person", [2] * 10, answer=3, weight=1.0)
    run.step()
    assert list(run.scheduler.live) == ["person"]
    run.finish()
    assert list(run.done) == ["person", "batch job"]
    assert run.done["batch job"] == alone([1] * 20, 20)
