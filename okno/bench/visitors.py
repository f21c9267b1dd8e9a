"""Clients of every kind, polite and rude, for a soak test: what each does and what came of it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from okno.bench.canary import Canaries
from okno.bench.client import JSON, Address, Exchange, call, delta_text

Result = Literal["completed", "cancelled", "refused", "busy", "answered", "failed"]
ANSWER_TIMEOUT_S = 300.0
BUSY = 503

FILLER = (
    "The red box is on the table. ", "Маша живёт в городе Томск. ", "The key is in the drawer. ",
    "Кот спит на диване, а пёс ждёт у двери. ",
)  # fmt: skip
ASK = {
    "en": "{filler}My code is {canary}. What is my code?",
    "ru": "{filler}Мой код: {canary}. Какой мой код?",
}
WRONG: tuple[tuple[JSON | bytes, int], ...] = (
    ({"messages": [{"role": "user", "content": "hi"}], "temperature": -1}, 400),
    ({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 0}, 400),
    ({"messages": [{"role": "user", "content": "hi"}], "temprature": 1}, 400),
    ({"messages": [{"role": "user", "content": "hi"}], "model": "no such model"}, 404),
    ({"messages": "hi"}, 400),
    (b'{"messages": [', 400),
    (b"\xff\xfe", 400),
)


@dataclass(slots=True)
class Outcome:
    """One visit. first_s: to the first text; gaps_s: between texts; leaked: canaries of others in
    this client's text; echoed: its own canary came back; problem: why it failed."""

    kind: str
    result: Result = "failed"
    first_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    characters: int = 0
    leaked: set[str] = field(default_factory=set)
    echoed: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """What all visitors share. long_repeats: fillers that make a long prompt; too_long: fillers
    that cannot fit into the window."""

    address: Address
    canaries: Canaries
    long_repeats: int
    too_long: int


class Visitor:
    """One client. `visit` picks a behaviour and never raises: a surprise is a failed Outcome."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self._scene = scene
        self._random = random.Random(seed)

    async def visit(self) -> Outcome:
        """One random visit, bounded by ANSWER_TIMEOUT_S."""
        kind = self._random.choices(list(BEHAVIOURS), [w for w, _ in BEHAVIOURS.values()])[0]
        outcome = Outcome(kind)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await BEHAVIOURS[kind][1](self, outcome)
        except (OSError, ValueError, KeyError, TimeoutError) as error:
            outcome.result, outcome.problem = "failed", f"{type(error).__name__}: {error}"
        return outcome

    async def arrive(self) -> Exchange:
        """Ask for a long answer and do not read it."""
        exchange, _ = await self._open(long=False)
        return exchange

    async def short_chat(self, outcome: Outcome) -> None:
        """A short question, streamed to its end."""
        await self._stream(outcome, long=False)

    async def long_chat(self, outcome: Outcome) -> None:
        """A prompt of about half the window, streamed to its end."""
        await self._stream(outcome, long=True)

    async def leave_at_once(self, outcome: Outcome) -> None:
        """Gone as soon as the request is sent: in the queue."""
        exchange, _ = await self._open(long=self._random.random() < 0.5)
        self.leave(exchange)
        outcome.result = "cancelled"

    async def leave_in_prefill(self, outcome: Outcome) -> None:
        """Gone when the server has accepted a long prompt."""
        exchange, _ = await self._open(long=True)
        busy = await exchange.status() == BUSY
        self.leave(exchange)
        outcome.result = "busy" if busy else "cancelled"

    async def leave_in_answer(self, outcome: Outcome) -> None:
        """Gone after a few pieces of the answer."""
        await self._stream(outcome, long=False, leave_after=self._random.randint(1, 8))

    async def whole_answer(self, outcome: Outcome) -> None:
        """Not streamed."""
        canary = self._scene.canaries.issue()
        body = self._chat(canary, long=False) | {"stream": False}
        status, answer = await self._post("/v1/chat/completions", body)
        if status == 200:
            text = json.loads(answer)["choices"][0]["message"]["content"]
            self._judge(outcome, canary, text)
        outcome.result = _result(status, "completed")

    async def wrong_request(self, outcome: Outcome) -> None:
        """Refused by the HTTP layer with the right status."""
        body, expected = self._random.choice(WRONG)
        await self._refused(outcome, body, expected)

    async def too_long(self, outcome: Outcome) -> None:
        """Refused by the engine: the prompt does not fit."""
        canary = self._scene.canaries.issue()
        body = self._chat(canary, long=False, repeats=self._scene.too_long)
        await self._refused(outcome, body, 400)

    async def embedding(self, outcome: Outcome) -> None:
        """One vector."""
        text = self._question(self._scene.canaries.issue(), 0)
        status, answer = await self._post("/v1/embeddings", {"input": text})
        if status == 200 and len(json.loads(answer)["data"]) != 1:
            raise ValueError("not one vector")
        outcome.result = _result(status, "answered")

    async def tokens(self, outcome: Outcome) -> None:
        """Text to tokens and back: exactly the same text."""
        text = self._question(self._scene.canaries.issue(), 1)
        status, answer = await self._post("/tokenize", {"content": text})
        if status == 200:
            ids = json.loads(answer)["tokens"]
            status, answer = await self._post("/detokenize", {"tokens": ids})
        if status == 200 and json.loads(answer)["content"] != text:
            raise ValueError("the text came back changed")
        outcome.result = _result(status, "answered")

    async def _stream(self, outcome: Outcome, long: bool, leave_after: int | None = None) -> None:
        began = time.perf_counter()
        exchange, canary = await self._open(long)
        status = await exchange.status()
        if status != 200:
            outcome.result = _result(status, "failed")
            await exchange.close()
            return
        pieces: list[str] = []
        whole = await _listen(exchange, outcome, pieces, began, leave_after)
        self._judge(outcome, canary, "".join(pieces))
        if whole:
            await exchange.close()
            outcome.result = "completed"
        else:
            self.leave(exchange)
            outcome.result = "cancelled"

    async def _refused(self, outcome: Outcome, body: JSON | bytes, expected: int) -> None:
        status, answer = await self._post("/v1/chat/completions", body)
        if status not in (expected, BUSY):
            raise ValueError(f"status {status} instead of {expected}: {answer[:200]!r}")
        outcome.result = "refused" if status == expected else "busy"

    async def _open(self, long: bool) -> tuple[Exchange, str]:
        canary = self._scene.canaries.issue()
        body = self._chat(canary, long)
        return await Exchange.open(
            self._scene.address, "POST", "/v1/chat/completions", body
        ), canary

    async def _post(self, path: str, body: JSON | bytes) -> tuple[int, bytes]:
        return await call(self._scene.address, "POST", path, body)

    def _chat(self, canary: str, long: bool, repeats: int | None = None) -> dict[str, Any]:
        if repeats is None:
            repeats = self._scene.long_repeats if long else self._random.randint(0, 2)
        return {
            "messages": [{"role": "user", "content": self._question(canary, repeats)}],
            "stream": True,
            "max_tokens": self._random.randint(16, 64),
            "temperature": self._random.choice([0, 0, 0.8]),
            "ignore_eos": self._random.random() < 0.3,
        }

    def _question(self, canary: str, repeats: int) -> str:
        filler = "".join(self._random.choices(FILLER, k=repeats))
        return ASK[self._random.choice(["en", "ru"])].format(filler=filler, canary=canary)

    def _judge(self, outcome: Outcome, canary: str, text: str) -> None:
        outcome.characters = len(text)
        outcome.leaked = self._scene.canaries.foreign(canary, text)
        outcome.echoed = canary in text

    def leave(self, exchange: Exchange) -> None:
        """Half of the leavers reset the connection, half leave it to be found closed."""
        if self._random.random() < 0.5:
            exchange.abort()
        else:
            exchange.hang_up()


async def _listen(
    exchange: Exchange, outcome: Outcome, pieces: list[str], began: float, leave_after: int | None
) -> bool:
    """Collect text and times; False when left after `leave_after` texts. Raises ValueError for a
    stream that reports an error or does not finish exactly once."""
    finished, last = 0, began
    async for event in exchange.events():
        if "error" in event:
            raise ValueError(f"the stream reports {event['error']}")
        finished += sum(c.get("finish_reason") is not None for c in event["choices"])
        if text := delta_text(event):
            now = time.perf_counter()
            if outcome.first_s is None:
                outcome.first_s = now - began
            else:
                outcome.gaps_s.append(now - last)
            last = now
            pieces.append(text)
            if leave_after is not None and len(pieces) >= leave_after:
                return False
    if finished != 1:
        raise ValueError(f"the stream finished {finished} times")
    return True


def _result(status: int, good: Result) -> Result:
    """200 is `good`, 503 busy; anything else raises ValueError."""
    if status == 200:
        return good
    if status == BUSY:
        return "busy"
    raise ValueError(f"unexpected status {status}")


BEHAVIOURS: dict[str, tuple[int, Callable[[Visitor, Outcome], Awaitable[None]]]] = {
    "short chat": (34, Visitor.short_chat),
    "long chat": (12, Visitor.long_chat),
    "not streamed": (10, Visitor.whole_answer),
    "leaves in the queue": (8, Visitor.leave_at_once),
    "leaves in prefill": (8, Visitor.leave_in_prefill),
    "leaves in the answer": (12, Visitor.leave_in_answer),
    "wrong request": (4, Visitor.wrong_request),
    "prompt too long": (4, Visitor.too_long),
    "embedding": (4, Visitor.embedding),
    "tokenize and back": (4, Visitor.tokens),
}
