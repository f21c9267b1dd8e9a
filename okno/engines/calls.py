"""Questions to the worker that get one answer: tokenize, detokenize, embed, inspect, recall,
resize.

A call that was under way when a worker died is asked again; one that was under way at several
deaths is a suspect and asked alone, as with streams (engines/streams.py). Only a resize is not
asked again: it may have taken the memory that the worker died of.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

from okno.core.errors import EngineFailed, ErrorInfo
from okno.engines.protocol import Answer, Call, CallFailed, Resize
from okno.engines.streams import FAIL_AT, SUSPECT_AT


@dataclass(slots=True, eq=False)
class _Pending:
    message: Call
    answer: asyncio.Future[Answer]
    strikes: int = 0

    @property
    def suspect(self) -> bool:
        return self.strikes >= SUSPECT_AT

    @property
    def bears(self) -> int:
        """Deaths until it fails."""
        return 1 if isinstance(self.message, Resize) else FAIL_AT

    def failed(self, reason: str) -> EngineFailed:
        """The error of so many deaths, the last for `reason`."""
        if isinstance(self.message, Resize):
            return EngineFailed(
                f"The engine died while the window was resized: {reason}. It is started again with "
                "the old window; answers go on."
            )
        return EngineFailed(f"The engine died {FAIL_AT} times on this call: {reason}.")


class Calls:
    """Pending calls by number, oldest first."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}
        self._held: list[_Pending] = []  # suspects that wait for their turn alone
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._pending)

    def next_number(self) -> int:
        return next(self._numbers)

    def add(self, message: Call) -> asyncio.Future[Answer]:
        """The future of its answer (CallFailed included)."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[message.call] = _Pending(message, future)
        return future

    def remove(self, number: int) -> bool:
        """Forget a call; False if it was answered."""
        pending = self._pending.pop(number, None)
        if pending in self._held:
            self._held.remove(pending)
        return pending is not None

    def answer(self, answer: Answer) -> None:
        pending = self._pending.get(answer.call)
        if pending is not None:
            self.remove(answer.call)
            if not pending.answer.done():
                pending.answer.set_result(answer)

    def strike(self, reason: str) -> bool:
        """The worker died. Fails calls with too many strikes; True if there was one."""
        active = [p for p in self._pending.values() if p not in self._held]
        for pending in active:
            pending.strikes += 1
        condemned = [p for p in active if p.strikes >= p.bears]
        for pending in condemned:
            error = pending.failed(reason)
            self.answer(CallFailed(pending.message.call, error.info))
        return bool(condemned)

    def fail_all(self, error: ErrorInfo) -> None:
        for number in list(self._pending):
            self.answer(CallFailed(number, error))

    def to_resend(self) -> list[Call]:
        """Calls for a new worker: all that are not suspect. Suspects are held."""
        self._held = [p for p in self._pending.values() if p.suspect]
        return [p.message for p in self._pending.values() if not p.suspect]

    def next_suspect(self) -> Call | None:
        """The next held call, if no suspect is being asked."""
        asked = any(p.suspect and p not in self._held for p in self._pending.values())
        return None if asked or not self._held else self._held.pop(0).message
