"""Who is told what about the queue, and when."""

from __future__ import annotations

import pytest

from okno.engines.queue_watch import EVERY_S, FRESH_S, LONG, QueueWatch
from okno.schedule.lately import Lately
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits, Sampled


class Desk:
    """A scheduler with one slot, and the watch over its queue."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(Limits(batch_size=1, seq_ids=2, pool_cells=512))
        self.lately = Lately()
        self.watch = QueueWatch(self.lately)

    def add(self, *ids: str) -> None:
        for id in ids:
            self.scheduler.add(Sequence(id, [len(id)] * 10, max_tokens=20))
            self.watch.arrived(id)

    def look(self, now: float) -> tuple[dict[str, int], dict[str, int]]:
        told = self.watch.look(self.scheduler, now)
        return ({a.id: a.queue_position for a in told.accepted},
                {q.id: q.position for q in told.queued})  # fmt: skip

    def finish_one(self) -> None:
        """The next one of the queue runs and ends."""
        step = self.scheduler.schedule(64)
        self.scheduler.update(step, {span.id: Sampled((1,), ended=True) for span in step.spans})


def test_each_arrival_is_told_its_place_once() -> None:
    desk = Desk()
    desk.add("a", "b", "c")
    assert desk.look(0.0) == ({"a": 0, "b": 1, "c": 2}, {})
    assert desk.look(0.1) == ({}, {})
    desk.add("d")
    assert desk.look(0.2) == ({"d": 3}, {})


def test_places_are_told_once_a_second_and_only_when_they_change() -> None:
    desk = Desk()
    desk.add("a", "b", "c", "d")
    desk.look(0.0)
    desk.finish_one()
    assert desk.look(EVERY_S / 2) == ({}, {})
    assert desk.look(EVERY_S) == ({}, {"b": 0, "c": 1, "d": 2})
    assert desk.look(2 * EVERY_S) == ({}, {})
    desk.finish_one()
    assert desk.look(2.5 * EVERY_S) == ({}, {}), "the last look is half a second ago"
    assert desk.look(3 * EVERY_S) == ({}, {"c": 0, "d": 1})


def test_a_move_between_arrivals_is_not_forgotten() -> None:
    desk = Desk()
    desk.add("a", "b")
    desk.look(0.0)
    desk.finish_one()
    desk.add("c")
    assert desk.look(0.5) == ({"c": 1}, {})
    assert desk.look(1.0) == ({}, {"b": 0})


def test_in_a_long_queue_the_wait_of_a_moment_ago_is_told_and_soon_a_new_one() -> None:
    desk = Desk()
    lately = desk.lately
    lately.ran(1, 0, 0.1)
    lately.ran(0, 10, 0.1)
    desk.add(*(f"r{k}" for k in range(2 * LONG)))
    first = desk.watch.look(desk.scheduler, 0.0).accepted
    lately.ran(1, 0, 5.0)  # all became slow
    desk.add("next")
    [joined] = desk.watch.look(desk.scheduler, FRESH_S / 2).accepted
    each_s = first[-1].wait_s - first[-2].wait_s
    assert joined.queue_position == 2 * LONG
    assert joined.wait_s == pytest.approx(first[-1].wait_s + each_s)
    desk.add("later")
    [late] = desk.watch.look(desk.scheduler, 2 * FRESH_S).accepted
    assert late.wait_s > 2 * joined.wait_s


def test_who_left_at_once_is_not_accepted() -> None:
    desk = Desk()
    desk.add("a", "b")
    desk.scheduler.cancel("a")
    assert desk.look(0.0) == ({"b": 0}, {})
    desk.scheduler.cancel("b")
    assert desk.look(5.0) == ({}, {})


def test_a_request_that_was_sent_back_is_told_nothing() -> None:
    """Its answer has begun; others see their places behind it."""
    desk = Desk()
    desk.add("a")
    desk.look(0.0)
    desk.scheduler.schedule(64)
    begun = desk.scheduler.live.pop("a")
    desk.scheduler.waiting.add_resumed(begun)
    desk.add("b")
    assert desk.look(5.0) == ({"b": 1}, {})


def test_nobody_waits_long_where_nobody_is_live() -> None:
    desk = Desk()
    desk.add("a", "b")
    told = desk.watch.look(desk.scheduler, 0.0)
    assert [a.wait_s for a in told.accepted] == [0.0, None], "no step was measured yet"
