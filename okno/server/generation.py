"""Running the choices of one HTTP request: n engine streams that behave as one.

start()   every prompt is accepted, or the first error is raised: still a real HTTP status
events()  (choice, Queued | Delta | Finished) as they come, one Finished per choice
aclose()  everything not finished is cancelled in the engine
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from starlette.types import Receive

from okno.core.errors import EngineFailed, ErrorInfo, OknoError, from_info
from okno.core.events import Accepted, Delta, Event, Failed, Finished, Queued
from okno.core.request import Request
from okno.engines.client import EngineClient

T = TypeVar("T")
QUEUED_EVENTS = 64


class Observer(Protocol):
    """Sees every event of every choice (the metrics do)."""

    def started(self) -> None: ...

    def event(self, choice: int, event: Delta | Finished) -> None: ...


class Generation:
    """One HTTP request's sequences. Use once: start, then events; always aclose."""

    def __init__(
        self,
        engine: EngineClient,
        requests: Sequence[Request],
        observer: Observer,
        wire_names: Mapping[str, str],
    ) -> None:
        self._streams = [engine.generate(request) for request in requests]
        self._observer = observer
        self._wire_names = wire_names
        self._pumps: list[asyncio.Task[None]] = []

    async def start(self) -> list[Accepted]:
        """Submit all; one Accepted per choice. Raises the first OknoError after all answered,
        with the field named as the client named it (wire_names: core name to wire name)."""
        self._observer.started()
        try:
            return await self._accepted()
        except OknoError as error:
            raise renamed(error, self._wire_names) from error

    async def _accepted(self) -> list[Accepted]:
        if len(self._streams) == 1:
            return [accepted(await anext(self._streams[0], None))]
        firsts = await asyncio.gather(
            *(anext(s, None) for s in self._streams), return_exceptions=True
        )
        for first in firsts:
            if isinstance(first, BaseException):
                raise first
        return [accepted(first) for first in firsts if not isinstance(first, BaseException)]

    async def events(self) -> AsyncIterator[tuple[int, Queued | Delta | Finished]]:
        """Places in the queue, deltas and the Finished of every choice. Raises OknoError when one
        fails, with the field named as in start."""
        left = len(self._streams)
        merged = self._single() if left == 1 else self._merged()
        try:
            async for choice, event in merged:
                if isinstance(event, Delta):
                    self._observer.event(choice, event)
                    yield choice, event
                elif isinstance(event, Queued):
                    yield choice, event
                elif isinstance(event, Finished):
                    self._observer.event(choice, event)
                    yield choice, event
                    left -= 1
                    if not left:
                        return
                elif isinstance(event, Failed):
                    raise failed(event)
        except OknoError as error:
            raise renamed(error, self._wire_names) from error
        raise EngineFailed("The engine ended the answer without a reason.")

    async def _single(self) -> AsyncIterator[tuple[int, Event]]:
        async for event in self._streams[0]:
            yield 0, event

    async def _merged(self) -> AsyncIterator[tuple[int, Event]]:
        queue: asyncio.Queue[tuple[int, Event | OknoError | None]] = asyncio.Queue(QUEUED_EVENTS)
        self._pumps = [
            asyncio.create_task(_pump(choice, stream, queue))
            for choice, stream in enumerate(self._streams)
        ]
        running = len(self._pumps)
        while running:
            choice, event = await queue.get()
            if isinstance(event, OknoError):
                raise event
            if event is None:
                running -= 1
            else:
                yield choice, event

    async def aclose(self) -> None:
        """Cancel what still runs. Safe at any time, more than once."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for stream in self._streams:
            await stream.aclose()


async def _pump(
    choice: int,
    stream: AsyncIterator[Event],
    queue: asyncio.Queue[tuple[int, Event | OknoError | None]],
) -> None:
    try:
        async for event in stream:
            await queue.put((choice, event))
    except OknoError as error:
        await queue.put((choice, error))
    else:
        await queue.put((choice, None))


def accepted(event: Event | None) -> Accepted:
    if isinstance(event, Failed):
        raise failed(event)
    if not isinstance(event, Accepted):
        raise EngineFailed("The engine did not accept the request.")
    return event


def failed(event: Failed) -> OknoError:
    return from_info(event.error)


def renamed(error: OknoError, wire_names: Mapping[str, str]) -> OknoError:
    """`error` with its field named, in `param` and in the message, as the client named it."""
    info = error.info
    core = info.param or ""
    wire = wire_names.get(core, core)
    if wire == core:
        return error
    message = info.message.replace(f"`{core}`", f"`{wire}`")
    return from_info(ErrorInfo(info.code, message, wire, info.details))


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None, with `work` cancelled and unwound, as soon as the client left.

    To be called after the body was read: then the next message can only be a disconnect.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def gone(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
