"""Tells those that wait where they stand: when they arrive, and then as they move up."""

from __future__ import annotations

from dataclasses import dataclass, field

from okno.core.events import Accepted, Queued
from okno.schedule.lately import Lately
from okno.schedule.scheduler import Scheduler
from okno.schedule.wait import estimated_waits

EVERY_S = 1.0


@dataclass(slots=True)
class Told:
    """What one look at the queue has to tell."""

    accepted: list[Accepted] = field(default_factory=list)
    queued: list[Queued] = field(default_factory=list)


class QueueWatch:
    """Looks at the queue before a step: if somebody arrived, or a second has passed."""

    def __init__(self, lately: Lately) -> None:
        self._lately = lately
        self._arrived: set[str] = set()
        self._told: dict[str, int] = {}  # the place that each knows of
        self._looked_s = float("-inf")

    def arrived(self, id: str) -> None:
        """`id` has just been added to the scheduler."""
        self._arrived.add(id)

    def look(self, scheduler: Scheduler, now: float) -> Told:
        """Accepted for whom arrived since the last look; once in EVERY_S Queued for those whose
        place has changed and who have not begun."""
        due = now - self._looked_s >= EVERY_S
        told = Told()
        if not self._arrived and not (due and len(scheduler.waiting)):
            return told
        places: dict[str, int] = {}
        waits_s = estimated_waits(scheduler, self._lately)
        for place, sequence in enumerate(scheduler.waiting):
            id, wait_s = sequence.id, waits_s[place]
            if id in self._arrived:
                told.accepted.append(Accepted(id, sequence.prompt_tokens, place, wait_s))
            elif due and not sequence.started and self._told.get(id) != place:
                told.queued.append(Queued(id, place, wait_s))
            else:
                place = self._told.get(id, place)
            places[id] = place
        self._arrived.clear()
        self._told = places
        if due:
            self._looked_s = now
        return told
