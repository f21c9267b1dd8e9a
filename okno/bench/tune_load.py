"""A short fixed load: so many prompts at once, then all of them decoding.

Every answer repeats one printable token (by logit bias), so tokens are counted exactly from the
text of the stream, however it is cut into events.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from okno.bench.client import Address, Exchange, call, delta_text
from okno.core.errors import EngineFailed

DECODE_S = 4.0
LEAST_TOKENS = 8  # of each sequence, with all decoding
POLL_S = 0.05
FIRST_PLAIN_TOKEN = 260  # above the special and byte tokens of most vocabularies
MARK = " a"


@dataclass(frozen=True, slots=True)
class Burst:
    """What came of batch_size prompts at once. ttft_s: the last one's first token; total_tok_s:
    all of them, from then on; None: the first tokens did not come within the limit."""

    batch_size: int
    prompt_tokens: int
    ttft_s: float | None
    total_tok_s: float | None
    n_tokens: int = 0


@dataclass(slots=True)
class _Stream:
    """One answer: when its events came, and how many characters each brought."""

    times_s: list[float] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)

    def rate(self, since_s: float) -> float:
        """Characters/s between the events from since_s on."""
        at = next((i for i, t in enumerate(self.times_s) if t >= since_s), len(self.times_s))
        if len(self.times_s) - at < 2:
            return 0.0
        return sum(self.characters[at + 1 :]) / (self.times_s[-1] - self.times_s[at])


class Load:
    """A load for one served model. Raises EngineFailed when it answers with an error."""

    def __init__(self, address: Address, mark: int, mark_characters: int, n_vocab: int) -> None:
        self._address, self._mark, self._n_vocab = address, mark, n_vocab
        self._mark_characters = mark_characters

    @classmethod
    async def on(cls, address: Address) -> Load:
        """Ask the server for its vocabulary and a token to repeat."""
        props = json.loads(await _body(address, "GET", "/props"))
        told = json.loads(
            await _body(address, "POST", "/tokenize", {"content": MARK, "with_pieces": True})
        )
        mark = told["tokens"][-1]
        piece = mark["piece"]
        if not isinstance(piece, str) or not piece.strip():
            raise EngineFailed("The model's vocabulary has no printable token to count by.")
        return cls(address, mark["id"], len(piece), props["model"]["n_vocab"])

    async def burst(
        self, batch_size: int, prompt_tokens: int, *, limit_s: float, decode_s: float = DECODE_S,
        seed: int = 0,
    ) -> Burst:  # fmt: skip
        """batch_size different prompts at once. limit_s: how long first tokens are waited for."""
        streams = [_Stream() for _ in range(batch_size)]
        began = time.perf_counter()
        tasks = [
            asyncio.create_task(self._stream(stream, prompt_tokens, seed + index))
            for index, stream in enumerate(streams)
        ]
        try:
            started = await _until(lambda: all(s.times_s for s in streams), limit_s, tasks)
            if not started:
                return Burst(batch_size, prompt_tokens, None, None)
            all_started_s = max(stream.times_s[0] for stream in streams)
            await self._decode(streams, all_started_s, decode_s, limit_s, tasks)
        finally:
            await _stopped(tasks)
        total = sum(s.rate(all_started_s) for s in streams) / self._mark_characters
        n_tokens = sum(sum(s.characters) for s in streams) // self._mark_characters
        return Burst(batch_size, prompt_tokens, all_started_s - began, total, n_tokens)

    async def _decode(
        self, streams: Sequence[_Stream], since_s: float, decode_s: float, limit_s: float,
        tasks: Sequence[asyncio.Task[None]],
    ) -> None:  # fmt: skip
        """Let all decode for decode_s, and on until each has some tokens."""
        await _until(lambda: time.perf_counter() - since_s >= decode_s, decode_s + 1, tasks)
        wanted = LEAST_TOKENS * self._mark_characters

        def enough() -> bool:
            return all(
                sum(n for t, n in zip(s.times_s, s.characters, strict=True) if t > since_s)
                >= wanted
                for s in streams
            )

        await _until(enough, limit_s, tasks)

    async def _stream(self, stream: _Stream, prompt_tokens: int, seed: int) -> None:
        exchange = await Exchange.open(
            self._address, "POST", "/v1/completions", self._body(prompt_tokens, seed)
        )
        try:
            if await exchange.status() != 200:
                raise EngineFailed(f"The server refused: {(await exchange.body()).decode()[:300]}")
            async for event in exchange.events():
                text = delta_text(event)
                if text:
                    stream.times_s.append(time.perf_counter())
                    stream.characters.append(len(text))
        finally:
            exchange.abort()

    def _body(self, prompt_tokens: int, seed: int) -> dict[str, object]:
        source = random.Random(seed)
        low = FIRST_PLAIN_TOKEN if self._n_vocab > 2 * FIRST_PLAIN_TOKEN else 0
        prompt = [source.randrange(low, self._n_vocab) for _ in range(prompt_tokens)]
        return {
            "prompt": prompt, "stream": True, "temperature": 0, "ignore_eos": True,
            "logit_bias": {str(self._mark): 100},
        }  # fmt: skip

    async def idle(self, timeout_s: float = 30.0) -> None:
        """Wait until nothing decodes any more."""
        deadline = time.perf_counter() + timeout_s
        while time.perf_counter() < deadline:
            slots = json.loads(await _body(self._address, "GET", "/slots"))
            if not slots["waiting"] and all(s["state"] != "live" for s in slots["slots"]):
                return
            await asyncio.sleep(POLL_S)


async def _until(
    done: Callable[[], bool], timeout_s: float, tasks: Sequence[asyncio.Task[None]]
) -> bool:
    """Poll until `done`; False after timeout_s. Errors of tasks are raised; a task that ended
    ends the waiting too."""
    deadline = time.perf_counter() + timeout_s
    while not done():
        for task in tasks:
            if task.done():
                task.result()
        if time.perf_counter() > deadline or all(task.done() for task in tasks):
            return False
        await asyncio.sleep(POLL_S)
    return True


async def _stopped(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _body(
    address: Address, method: str, path: str, body: dict[str, object] | None = None
) -> bytes:
    status, answer = await call(address, method, path, body)
    if status != 200:
        raise EngineFailed(f"{path} answered {status}: {answer.decode(errors='replace')[:300]}")
    return answer
