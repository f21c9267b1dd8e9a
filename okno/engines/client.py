"""What the server needs of an engine: the contract between HTTP and whatever runs the model.

The Supervisor (engines/supervisor.py) is the real one: a worker process that may die and is
restarted, while the streams here only see a pause.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from okno.core.errors import ErrorInfo
from okno.core.events import Event
from okno.core.request import Message, Request
from okno.core.window import MemoryUse, ModelFacts, Window, WindowChange
from okno.engines.protocol import (
    Detokenized,
    Embedded,
    Heartbeat,
    Inspection,
    Recalled,
    Resized,
    Tokenized,
)
from okno.engines.tally import Tally

EngineState = Literal["loading", "ready", "restarting", "quarantined", "stopped"]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot for /health, /props and /metrics. All counters are since the server started.

    submitted = completed + cancelled + rejected + failed + in flight, always.
    stalled: requests are in flight and no step has completed for 10 s (or the hang bound, if that
    is shorter). tally: what the steps did, of all workers so far.
    """

    state: EngineState
    progress: float
    stalled: bool
    facts: ModelFacts | None
    window: Window | None
    memory: MemoryUse | None
    notes: tuple[str, ...]
    heartbeat: Heartbeat | None
    in_flight: int
    restarts: int
    submitted: int
    completed: int
    cancelled: int
    rejected: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    last_death: str | None
    error: ErrorInfo | None
    tally: Tally = field(default_factory=Tally)


class EngineClient(Protocol):
    """An engine behind an asyncio face. Errors are OknoError, raised from the awaits."""

    def status(self) -> EngineStatus: ...

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Submit and iterate: Accepted, Queued*, Delta*, then one Finished. A failure before or
        during is raised as an OknoError (ContextExceeded, QueueFull, BadConstraint, EngineFailed,
        ...). Closing the iterator (aclose, or cancellation) cancels the request and frees its
        cells.
        """
        ...

    async def tokenize(
        self, text: str | None = None, *, messages: Sequence[Message] | None = None,
        add_special: bool = False, parse_special: bool = False, continue_last: bool = False,
        with_pieces: bool = False,
    ) -> Tokenized: ...  # fmt: skip

    async def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> Detokenized: ...

    async def embed(
        self, inputs: Sequence[str | tuple[int, ...]], *, normalize: bool = True
    ) -> Embedded: ...

    async def inspect(self) -> Inspection: ...

    async def steps(self, last: int) -> Recalled:
        """What the last steps of the worker ran, at most `last` of them."""
        ...

    async def resize(self, change: WindowChange) -> Resized:
        """Open another window while requests go on; `status` tells it from then on. Raises
        BadRequest, BadSetting, DoesNotFit or WindowInUse with the numbers: the window stays."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests (NotReady), wait for those in flight, at most timeout_s, then
        finish the rest as failed (NotReady, 'server is stopping')."""
        ...

    async def close(self) -> None: ...
