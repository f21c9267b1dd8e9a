"""When prompts that are computed side by side will be done.

The prompt rows of a step are shared between clients by their weights, and within a client the
prompt that is due first takes all (schedule/shares.py). Taken as a fluid that is generalised
processor sharing (Parekh and Gallager 1993): in virtual time each client's rows pass at the pace of
its weight, and a virtual second lasts as long as the weights of those who still have some.
Left out: who wants little has it a few steps sooner.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter

_due = attrgetter("due")


@dataclass(slots=True, eq=False)
class Prompt:
    """rows: left to compute. then: steps that its answer takes afterwards."""

    client: str
    weight: float
    due: float
    rows: float
    then: float
    cells: float


@dataclass(slots=True)
class Underway:
    """The prompts of sequences in slots. piece_rows: of them all in a step. Steps count from now;
    `passed` moves now."""

    piece_rows: float
    clients: dict[str, list[Prompt]] = field(default_factory=dict)
    _course: list[tuple[float, Prompt]] | None = None  # of the prompts as they are now

    def __len__(self) -> int:
        return sum(map(len, self.clients.values()))

    def add(self, prompt: Prompt) -> None:
        insort(self.clients.setdefault(prompt.client, []), prompt, key=_due)
        self._course = None

    def done(self) -> list[tuple[float, Prompt]]:
        """Steps until each is computed, the first to be done in front."""
        if self._course is None:
            self._course = self._followed()
        return self._course

    def first_row(self, client: str, due: float) -> float:
        """Steps until the first row of one that is added now: those of its client that are due
        before it come first."""
        before = [prompt for prompt in self.clients.get(client, ()) if prompt.due <= due]
        if not before:
            return 0.0
        if len(self.clients) == 1:
            return sum(prompt.rows for prompt in before) / self.piece_rows
        return next(step for step, prompt in self.done() if prompt is before[-1])

    def passed(self, steps: float) -> list[tuple[float, Prompt]]:
        """So many steps go by. Those that were done meanwhile, and in which step."""
        over = [(step, prompt) for step, prompt in self.done() if step <= steps]
        gone = {id(prompt) for _, prompt in over}
        virtual = self._virtual(steps)
        for client, prompts in list(self.clients.items()):
            rows = virtual * prompts[0].weight - sum(p.rows for p in prompts if id(p) in gone)
            left = [prompt for prompt in prompts if id(prompt) not in gone]
            if left:  # the one in front is under way
                left[0].rows -= max(0.0, min(left[0].rows, rows))
                self.clients[client] = left
            else:
                del self.clients[client]
        self._course = None
        return over

    def _followed(self) -> list[tuple[float, Prompt]]:
        step = virtual = 0.0
        found = []
        for until, weight, prompt in self._segments():
            step += (until - virtual) * weight / self.piece_rows
            virtual = until
            found.append((step, prompt))
        return found

    def _virtual(self, steps: float) -> float:
        """The virtual time after so many steps; that of the last row where all are done."""
        step = virtual = 0.0
        for until, weight, _ in self._segments():
            lasts = (until - virtual) * weight / self.piece_rows
            if step + lasts > steps:
                return virtual + (steps - step) * self.piece_rows / weight
            step, virtual = step + lasts, until
        return virtual

    def _segments(self) -> Iterator[tuple[float, float, Prompt]]:
        """(virtual time in which a prompt is done, the weights of those who compute until then, the
        prompt), in order."""
        ends: list[tuple[float, float, Prompt]] = []
        for prompts in self.clients.values():
            weight, rows = prompts[0].weight, 0.0
            for prompt in prompts:
                rows += prompt.rows
                ends.append((rows / weight, 0.0 if prompt is not prompts[-1] else weight, prompt))
        ends.sort(key=lambda end: end[0])
        weights = sum(prompts[0].weight for prompts in self.clients.values())
        for until, leaving, prompt in ends:
            yield until, weights, prompt
            weights -= leaving
