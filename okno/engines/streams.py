"""Requests in flight, from the server's side: what each client has got, and who to blame.

A worker may die at any moment. Every stream keeps the tokens it has passed on, so that a new
worker can go on after them. A request that was in flight at several deaths and got no token in
between is a suspect: suspects are tried one at a time, so that one poisonous request fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from okno.core.errors import ErrorInfo
from okno.core.events import Accepted, Delta, Event, Failed, Finished
from okno.core.request import Request

SUSPECT_AT = 2  # deaths without a token in between
FAIL_AT = 3


@dataclass(slots=True, eq=False)
class Stream:
    """One request in flight. strikes: worker deaths since its last token."""

    request: Request
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    emitted: list[int] = field(default_factory=list)
    accepted: Accepted | None = None
    ended: bool = False
    strikes: int = 0

    @property
    def suspect(self) -> bool:
        return self.strikes >= SUSPECT_AT

    def put(self, event: Event) -> None:
        """Pass an event on; an Accepted only once, nothing after the end."""
        if self.ended:
            return
        match event:
            case Accepted():
                if self.accepted is not None:
                    return
                self.accepted = event
            case Delta():
                self.emitted.extend(event.tokens)
                self.strikes = 0
            case Finished() | Failed():
                self.ended = True
        self.events.put_nowait(event)

    def fail(self, error: ErrorInfo) -> None:
        self.put(Failed(self.request.id, error))


class Streams:
    """All streams in flight, by request id, oldest first."""

    def __init__(self) -> None:
        self._by_id: dict[str, Stream] = {}
        self._held: list[Stream] = []  # suspects that wait for their turn alone
        self._on_trial: Stream | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._by_id.values()))

    def get(self, id: str) -> Stream | None:
        return self._by_id.get(id)

    def add(self, stream: Stream) -> None:
        assert stream.request.id not in self._by_id, "request ids are unique"
        self._by_id[stream.request.id] = stream

    def remove(self, stream: Stream) -> None:
        self._by_id.pop(stream.request.id, None)
        if stream in self._held:
            self._held.remove(stream)

    def strike(self) -> list[Stream]:
        """The worker died: everyone it was working for gets a strike. Returns those that have
        too many."""
        for stream in self:
            if stream not in self._held:
                stream.strikes += 1
        return [stream for stream in self if stream.strikes >= FAIL_AT]

    def to_replay(self) -> list[Stream]:
        """Whom to submit to a new worker: all that are not suspect, and the first suspect."""
        suspects = [stream for stream in self if stream.suspect]
        self._on_trial, self._held = (suspects[0], suspects[1:]) if suspects else (None, [])
        return [stream for stream in self if not stream.suspect] + suspects[:1]

    @property
    def on_trial(self) -> bool:
        """A suspect is being tried: it has got no token and has not ended."""
        trial = self._on_trial
        return (
            trial is not None
            and trial.suspect
            and not trial.ended
            and trial.request.id in self._by_id
        )

    def next_suspect(self) -> Stream | None:
        """The next suspect to try, once the one on trial got a token or ended."""
        if self._on_trial is None or self.on_trial:
            return None
        self._on_trial = self._held.pop(0) if self._held else None
        return self._on_trial
