"""A loop in this process, for tests of speculation: the same requests with guesses and without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from okno.core.request import Request, Sampling, Stop
from okno.engines.engine import Engine
from okno.engines.llamacpp import LlamaCpp
from okno.engines.loop import EngineLoop, Leave
from okno.engines.prepare import Preparer
from okno.engines.prompt import PromptEncoder
from okno.engines.protocol import Events, FromWorker, Submit
from okno.engines.sandbox import Sandbox
from okno.engines.speculation import (
    Speculation,
)
from okno.schedule.cost import Ahead
from okno.schedule.pacer import Pacer
from okno.schedule.step import Truncate
from tests.engines.drive import chat

FOUR = Stop(max_tokens=80)
COPY = "Copy this list exactly:\nriver stone\ngreen lamp\nwooden chair\ncold morning\nold bridge"
TEXTS = (COPY, "What is okno?", "Count to 20", "Привет! Кто ты?")


class Flat:
    """Every step costs the same: all guesses are checked."""

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        return 1.0


@dataclass
class Ticking:
    """A clock that moves a fixed time at every look."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


CLOCK = Ticking()  # of loops and speculation alike


@dataclass
class Answered:
    tokens: dict[str, list[int]]
    texts: dict[str, str]
    steps: int


@cache
def preparer_of(engine: Engine) -> Preparer:
    return Preparer(engine, PromptEncoder(engine, Sandbox()))


class Bench:
    """A loop in this process; requests are prepared as a worker does. Prompts are cut alike in all
    runs, whatever the steps took: other pieces give other last bits of the logits."""

    def __init__(self, engine: Engine, speculation: Speculation | None) -> None:
        self.loop = EngineLoop(engine, self._take, CLOCK, speculation)
        self.loop._pacer = Pacer(engine.window.step_tokens, Flat())
        self.preparer = preparer_of(engine)
        self.events: list[Events] = []

    def _take(self, message: FromWorker) -> None:
        assert isinstance(message, Events)
        self.events.append(message)

    def run(self, requests: list[Request], leave: str = "", after: int = 0) -> Answered:
        """All at once, to the end. leave: a request whose client goes after so many passes."""
        for request in requests:
            self.loop.arrivals.begin(request.id)
            self.loop.inbox.put(self.preparer.task(Submit(request)))
        tokens: dict[str, list[int]] = {request.id: [] for request in requests}
        texts = {request.id: "" for request in requests}
        open_, before, passes = set(tokens), self.loop.steps, 0
        while open_:
            self.loop.once()
            passes += 1
            if leave in open_ and passes == after:
                self.loop.inbox.put(Leave(leave))
                open_.discard(leave)
            for event in self.events:
                for delta in event.deltas:
                    tokens[delta.id] += delta.tokens
                    texts[delta.id] += delta.text
                assert not event.failed
                open_ -= {finished.id for finished in event.finished}
            self.events.clear()
        return Answered(tokens, texts, self.loop.steps - before)


def requests(*texts: str, **changes: Any) -> list[Request]:
    made = [chat(text, stop=FOUR) for text in texts]
    sampling = changes.pop("sampling", Sampling(temperature=0, seed=1))
    return [replace(r, id=str(k), sampling=sampling, **changes) for k, r in enumerate(made)]


def fresh(engine: LlamaCpp, speculation: Speculation | None) -> Bench:
    """A loop on an engine whose cache is empty."""
    bench = Bench(engine, speculation)
    engine.execute_operations([Truncate(seq, 0) for seq in range(engine.limits.seq_ids)])
    return bench
