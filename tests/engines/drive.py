"""Driving a real supervisor and worker process from tests."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec

from okno.core.events import Accepted, Delta, Event, Finished
from okno.core.request import Constraint, Message, Prompt, Request, Sampling, Stop
from okno.engines.protocol import WorkerOptions
from okno.engines.supervisor import Supervisor
from okno.inspect.models import demo_model

SCRIPTED = WorkerOptions(model_path="", name="scripted", engine="scripted", batch_size=4, ctx=512)
DEMO = WorkerOptions(model_path=str(demo_model().path), name="demo", batch_size=4, ctx=1024)
GREEDY = Sampling(temperature=0)
_ids = itertools.count()


def options(base: WorkerOptions, **changes: object) -> WorkerOptions:
    return msgspec.structs.replace(base, **changes)


@asynccontextmanager
async def running(
    base: WorkerOptions, *, hang_timeout_s: float = 60.0, **changes: object
) -> AsyncIterator[Supervisor]:
    """A started supervisor, closed at the end."""
    supervisor = Supervisor(options(base, **changes), hang_timeout_s=hang_timeout_s)
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.close()


def chat(text: str, *, max_tokens: int | None = None, **changes: object) -> Request:
    """A greedy chat request with a fresh id."""
    stop = Stop(max_tokens=max_tokens)
    request = Request(f"r{next(_ids)}", Prompt(messages=(Message("user", text),)), GREEDY, stop)
    return replace(request, **changes)  # type: ignore[arg-type]


@dataclass
class Answer:
    """All events of one request."""

    request: Request
    events: list[Event] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, Delta))

    @property
    def tokens(self) -> list[int]:
        return [t for e in self.events if isinstance(e, Delta) for t in e.tokens]

    @property
    def finished(self) -> Finished:
        (last,) = [e for e in self.events if isinstance(e, Finished)]
        assert self.events[-1] is last, "the end is the last event"
        return last

    @property
    def accepted(self) -> list[Accepted]:
        return [e for e in self.events if isinstance(e, Accepted)]


async def ask(
    supervisor: Supervisor,
    request: Request,
    after: dict[int, Callable[[], None]] | None = None,
) -> Answer:
    """Run a request to its end. after[n] is called once n tokens have arrived."""
    answer = Answer(request)
    due = dict(after or {})
    async for event in supervisor.generate(request):
        answer.events.append(event)
        for count in [c for c in due if len(answer.tokens) >= c]:
            due.pop(count)()
    return answer


async def ask_all(supervisor: Supervisor, *requests: Request) -> list[Answer]:
    return list(await asyncio.gather(*(ask(supervisor, request) for request in requests)))


def worker_pid(supervisor: Supervisor) -> int:
    pid = supervisor.worker_pid
    assert pid is not None
    return pid


async def until(condition: Callable[[], bool]) -> None:
    """Poll until `condition` holds; the test's timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - the state is another process's, nothing signals it
        await asyncio.sleep(0.01)


def constraint(kind: str, source: str = "") -> Constraint:
    return Constraint(kind, source)  # type: ignore[arg-type]
