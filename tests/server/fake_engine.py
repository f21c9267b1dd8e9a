"""An EngineClient in memory: scripted answers, gates to hold it at any point, a record of all."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from okno.core.errors import NotReady, OknoError
from okno.core.events import (
    Accepted,
    Delta,
    Event,
    Finished,
    FinishReason,
    Queued,
    Timings,
    TokenLogprob,
    Usage,
)
from okno.core.request import Message, Request
from okno.core.window import MemoryUse, ModelFacts, Window, WindowChange
from okno.engines.client import EngineStatus
from okno.engines.protocol import (
    Detokenized,
    Embedded,
    Heartbeat,
    Inspection,
    Recalled,
    ResizeCounts,
    Resized,
    Slot,
    Submit,
    Tokenized,
    frame,
)
from okno.engines.steps import Piece, StepRecord

FACTS = ModelFacts(
    name="fake-1m", path="/models/fake-1m.Q8_0.gguf", architecture="llama", description="a fake",
    n_params=1_000_000, size_bytes=2_000_000, n_vocab=256, n_embd=4, n_layer=2, ctx_train=1024,
    shares_prefixes=True, has_chat_template=True, is_embedding_model=False, pooling="mean",
)  # fmt: skip
READY = EngineStatus(
    state="ready", progress=1.0, stalled=False, facts=FACTS,
    window=Window(batch_size=4, ctx=1024, kv_pool_tokens=4096),
    memory=MemoryUse(4_000_000, 2_000_000, 1_000_000, 9_000_000), notes=("batch 4",),
    heartbeat=Heartbeat(10, 10, 10, 1, 2, 30, 4096, 4_000_000), in_flight=0, restarts=0,
    submitted=7, completed=7, cancelled=0, rejected=0, failed=0, prompt_tokens=70,
    cached_tokens=0, generated_tokens=21, last_death=None, error=None,
)  # fmt: skip


def opened() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


def a_step(number: int) -> StepRecord:
    """A step in which one sequence decodes with two drafts beside a piece of a prompt."""
    return StepRecord(
        number, 0.5 * number, "prompt_rows", 64, {"copy": 1}, 2, 1, 100, 0,
        [Piece("a-0", 3, 12, 3, True, 2, 1), Piece("b-0", 4, 0, 64, False)], 0.001, 0.2, 0.003,
    )  # fmt: skip


@dataclass
class FakeEngine:
    """`answer` in pieces, one token each. Gates: `accept` before Accepted, `step` before every
    token. `refuse` is raised instead of Accepted, `fail` after `fail_after` tokens. `wait_s` goes
    with Accepted, `queued` are places that follow it.

    seen: all requests; open: those running; cancelled: ids closed before their end.
    """

    answer: Sequence[str] = ("Hello", ",", " world")
    reason: FinishReason = "stop"
    refuse: OknoError | None = None
    fail: OknoError | None = None
    fail_after: int = 1
    answer_by_id: dict[str, Sequence[str]] = field(default_factory=dict)
    accept: asyncio.Event = field(default_factory=opened)
    step: asyncio.Event = field(default_factory=opened)
    current: EngineStatus = READY
    seen: list[Request] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    cancelled: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    resizes: list[WindowChange] = field(default_factory=list)
    draining: bool = False
    embed_gate: asyncio.Event = field(default_factory=opened)
    wait_s: float | None = None
    queued: Sequence[tuple[int, float | None]] = ()
    recalled: list[StepRecord] = field(default_factory=lambda: [a_step(k) for k in range(1, 6)])

    def status(self) -> EngineStatus:
        return replace(self.current, in_flight=len(self.open))

    async def until(self, count_cancelled: int = 0, count_open: int = 0) -> None:
        """Wait until so many requests were cancelled and at least so many are open."""
        while len(self.cancelled) < count_cancelled or len(self.open) < count_open:
            self.changed.clear()
            await self.changed.wait()

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        self.seen.append(request)
        frame(Submit(request))  # what reaches an engine can be sent to a worker
        if self.draining:
            raise NotReady("The server is stopping.", retry_after_s=3)
        self.open.add(request.id)
        self.changed.set()
        done = False
        try:
            await self.accept.wait()
            if self.refuse:
                done = True
                raise self.refuse
            yield Accepted(request.id, 9, len(self.open) - 1, self.wait_s)
            for position, wait_s in self.queued:
                yield Queued(request.id, position, wait_s)
            async for event in self._tokens(request):
                done = isinstance(event, Finished) or bool(self.fail)
                yield event
            done = True
        finally:
            self.open.discard(request.id)
            if not done:
                self.cancelled.append(request.id)
            self.changed.set()

    async def _tokens(self, request: Request) -> AsyncIterator[Event]:
        pieces = self.answer_by_id.get(request.id.rpartition("-")[2], self.answer)
        for i, piece in enumerate(pieces):
            await self.step.wait()
            await asyncio.sleep(0)
            if self.draining:
                raise NotReady("The server is stopping.", retry_after_s=3)
            if self.fail and i == self.fail_after:
                raise self.fail
            yield Delta(request.id, (i,), piece, self._logprobs(request, piece, i))
        yield Finished(
            request.id, self.reason, usage=Usage(9, 4, len(pieces)),
            timings=Timings(0.001, 0.010, 0.020),
        )  # fmt: skip

    def _logprobs(self, request: Request, piece: str, i: int) -> tuple[TokenLogprob, ...] | None:
        if request.sampling.logprobs is None:
            return None
        data = piece.encode()
        top = tuple(
            TokenLogprob(k, data, -float(k) if k else -0.5)
            for k in range(request.sampling.logprobs)
        )
        return (TokenLogprob(i, data, float("-inf") if piece == "never" else -0.5, top),)

    async def tokenize(
        self, text: str | None = None, *, messages: Sequence[Message] | None = None,
        add_special: bool = False, parse_special: bool = False, continue_last: bool = False,
        with_pieces: bool = False,
    ) -> Tokenized:  # fmt: skip
        prompt = text or "".join(f"<{m.role}>{m.content}" for m in messages or ())
        pieces = [bytes([b]) for b in prompt.encode()]
        return Tokenized(0, [p[0] for p in pieces], pieces if with_pieces else [], prompt)

    async def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> Detokenized:
        return Detokenized(0, bytes(t % 256 for t in tokens))

    async def embed(
        self, inputs: Sequence[str | tuple[int, ...]], *, normalize: bool = True
    ) -> Embedded:
        self.open.add("embed")
        self.changed.set()
        try:
            await self.embed_gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append("embed")
            raise
        finally:
            self.open.discard("embed")
            self.changed.set()
        vectors = [struct.pack("<4f", 0.5, 0.5, float(i), -0.5) for i in range(len(inputs))]
        return Embedded(0, vectors, 3 * len(inputs), "pooled states")

    async def inspect(self) -> Inspection:
        slots = [Slot(0, "a-0", "live", 9, 12, 3, "10.0.0.7"), Slot(1, None, "parked", 5, 5, 0)]
        return Inspection(0, slots, ["b-0"], 17, 4096, 10)

    async def steps(self, last: int) -> Recalled:
        return Recalled(0, self.recalled[-last:], len(self.recalled))

    async def resize(self, change: WindowChange) -> Resized:
        """Numbers change, `auto` and what is left out stay."""
        if self.refuse:
            raise self.refuse
        self.resizes.append(change)
        before, memory = self.current.window, self.current.memory
        assert before is not None
        assert memory is not None
        numbers = {
            name: value
            for name, value in {
                "batch_size": change.batch_size, "ctx": change.ctx, "kv_type": change.kv_type,
                "kv_pool_tokens": change.kv_pool,
            }.items()
            if value not in (None, "auto")
        }  # fmt: skip
        after = replace(before, **numbers)  # type: ignore[arg-type]
        self.current = replace(self.current, window=after)
        counts = ResizeCounts(0.031, False, 4096, 3, 1, 0, 5, 2)
        return Resized(0, before, after, memory, 7_000_000, ("batch 4",), counts)

    async def drain(self, timeout_s: float) -> None:
        """As the contract says: wait for those in flight at most timeout_s, then fail the rest."""
        self.draining_began()
        try:
            async with asyncio.timeout(timeout_s):
                while self.open:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            self.draining = True
            self.step.set()

    def draining_began(self) -> None:
        self.current = replace(self.current, state="stopped")

    async def close(self) -> None:
        self.draining = True
