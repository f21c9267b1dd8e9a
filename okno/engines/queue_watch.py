"""Tells those that wait where they stand: when they arrive, and then as they move up."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter

from okno.core.events import Accepted, Queued
from okno.schedule.lately import Lately
from okno.schedule.scheduler import Scheduler
from okno.schedule.wait import estimated_waits, further

EVERY_S = 1.0
FRESH_S = 0.25  # so long an estimate serves those who join a long queue
LONG = 32  # places


@dataclass(slots=True)
class Told:
    """What one look at the queue has to tell."""

    accepted: list[Accepted] = field(default_factory=list)
    queued: list[Queued] = field(default_factory=list)


class QueueWatch:
    """Looks at the queue before a step: at those who arrived, and once in EVERY_S at all."""

    def __init__(self, lately: Lately) -> None:
        self._lately = lately
        self._arrived: set[str] = set()
        self._told: dict[str, int] = {}  # the place that each knows of
        self._looked_s = float("-inf")
        self._waits_s: list[float | None] = []  # of each place, as estimated last
        self._estimated_s = float("-inf")

    def arrived(self, id: str) -> None:
        """`id` has just been added to the scheduler."""
        self._arrived.add(id)

    def look(self, scheduler: Scheduler, now: float) -> Told:
        """Accepted for whom arrived since the last look; once in EVERY_S Queued for those whose
        place has changed and who have not begun."""
        if len(scheduler.waiting) and now - self._looked_s >= EVERY_S:
            self._looked_s = now
            return self._look_at_all(scheduler, now)
        if self._arrived:
            return self._look_at_arrivals(scheduler, now)
        return Told()

    def _look_at_all(self, scheduler: Scheduler, now: float) -> Told:
        told = Told()
        places: dict[str, int] = {}
        waits_s = self._estimate(scheduler, now)
        for place, sequence in enumerate(scheduler.waiting):
            id, wait_s = sequence.id, waits_s[place]
            if id in self._arrived:
                told.accepted.append(Accepted(id, sequence.prompt_tokens, place, wait_s))
            elif not sequence.started and self._told.get(id) != place:
                told.queued.append(Queued(id, place, wait_s))
            else:
                place = self._told.get(id, place)
            places[id] = place
        self._arrived.clear()
        self._told = places
        return told

    def _look_at_arrivals(self, scheduler: Scheduler, now: float) -> Told:
        """Only at them: hundreds may wait, and a few arrive in every second step."""
        here = [one for id in self._arrived if (one := scheduler.waiting.get(id)) is not None]
        self._arrived.clear()
        placed = sorted(((scheduler.waiting.place(one), one) for one in here), key=itemgetter(0))
        told = Told()
        for place, sequence in placed:
            self._told[sequence.id] = place
            wait_s = self._wait_s(scheduler, place, now)
            told.accepted.append(Accepted(sequence.id, sequence.prompt_tokens, place, wait_s))
        return told

    def _wait_s(self, scheduler: Scheduler, place: int, now: float) -> float | None:
        """Of somebody at `place`; in a long queue as estimated a moment ago."""
        if now - self._estimated_s < FRESH_S and len(scheduler.waiting) > LONG:
            near = [wait_s for wait_s in self._waits_s if wait_s is not None]
            if place < len(near):
                return near[place]
            if len(near) > LONG:
                return further(near, place + 1 - len(near))[-1]
        return self._estimate(scheduler, now)[place]

    def _estimate(self, scheduler: Scheduler, now: float) -> list[float | None]:
        self._waits_s = estimated_waits(scheduler, self._lately)
        self._estimated_s = now
        return self._waits_s
