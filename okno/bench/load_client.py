"""One streaming request to an OpenAI-compatible endpoint: when each piece came, or what went wrong.

Nothing is raised for a request that fails: under load, failures are part of the result.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import httptools

from okno.bench.client import Address, Exchange

ProblemKind = Literal["unreachable", "refused", "error", "cut", "timeout"]
Clock = Callable[[], float]
MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. path: of completions or chat completions; model: None sends none."""

    address: Address
    path: str
    model: str | None = None
    api_key: str | None = None

    @property
    def is_chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    @property
    def url(self) -> str:
        return f"http{'s' * self.address.tls}://{self.address.authority}{self.path}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What is asked. client: goes out as `user`; ignore_eos: the answer has max_tokens tokens
    (llama-server, okno and vLLM know the field; OpenAI's own API refuses it)."""

    prompt: str
    max_tokens: int
    client: str = ""
    ignore_eos: bool = False

    def body(self, target: Target) -> dict[str, object]:
        """Greedy and streamed, with the token counts at the end."""
        asked: dict[str, object] = {
            "max_tokens": self.max_tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        if target.is_chat:
            asked["messages"] = [{"role": "user", "content": self.prompt}]
        else:
            asked["prompt"] = self.prompt
        optional = {"model": target.model, "user": self.client, "ignore_eos": self.ignore_eos}
        return asked | {name: value for name, value in optional.items() if value}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an answer is not whole: nothing listened or the connection broke before an answer; the
    server refused; it reported an error in mid-stream; the answer broke off, or ended for its
    length before it had the tokens asked for; it took too long."""

    kind: ProblemKind
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it. Times are seconds of the run's clock; chunks_s: when each
    event with text came; token counts: the server's `usage`, None if it told none."""

    due_s: float
    sent_s: float
    ended_s: float
    asked_tokens: int
    chunks_s: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    problem: Problem | None = None

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first text, from when the request was due: waiting here counts too."""
        return self.chunks_s[0] - self.due_s if self.chunks_s else None

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Seconds between one event with text and the next (ITL)."""
        return tuple(b - a for a, b in zip(self.chunks_s, self.chunks_s[1:], strict=False))

    @property
    def tokens(self) -> int:
        """Tokens of the answer: by `usage`, else as many as events with text."""
        return len(self.chunks_s) if self.completion_tokens is None else self.completion_tokens


@dataclass(slots=True)
class _Heard:
    """What has come so far."""

    chunks_s: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None


async def ask(
    target: Target, request: LoadRequest, clock: Clock, *, due_s: float | None = None,
    timeout_s: float = 600.0, on_text: Callable[[], None] | None = None,
) -> Answer:  # fmt: skip
    """Send `request` now and read its answer to the end. due_s: when it should have been sent;
    on_text: called for each event with text."""
    sent_s, heard = clock(), _Heard()
    try:
        async with asyncio.timeout(timeout_s):
            problem = await _listen(target, request, clock, heard, on_text)
    except TimeoutError:
        problem = Problem("timeout", f"no end within {timeout_s:g} s")
    usage = heard.usage
    return Answer(
        due_s=sent_s if due_s is None else due_s,
        sent_s=sent_s,
        ended_s=clock(),
        asked_tokens=request.max_tokens,
        chunks_s=tuple(heard.chunks_s),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        finish_reason=heard.finish_reason,
        problem=problem,
    )


async def _listen(
    target: Target, request: LoadRequest, clock: Clock, heard: _Heard,
    on_text: Callable[[], None] | None,
) -> Problem | None:  # fmt: skip
    """Fill `heard`; what went wrong, if anything."""
    exchange: Exchange | None = None
    try:
        exchange = await Exchange.open(
            target.address, "POST", target.path, request.body(target), target.headers
        )
        status = await exchange.status()
        if status != 200:
            return Problem("refused", f"{status}: {error_message(await exchange.body())}")
        return await _events(exchange, clock, heard, on_text) or _shortfall(heard, request)
    except (OSError, httptools.HttpParserError, ValueError) as error:
        return _broken(error, heard, began=exchange is not None)
    finally:
        if exchange is not None:
            exchange.hang_up()


async def _events(
    exchange: Exchange, clock: Clock, heard: _Heard, on_text: Callable[[], None] | None
) -> Problem | None:
    async for event in exchange.events():
        if not isinstance(event, dict):
            raise ValueError(f"an event that is no JSON object: {event!r:.80}")
        if event.get("error"):
            return Problem("error", message_of(event["error"]))
        heard.usage = event.get("usage") or heard.usage
        for choice in event.get("choices") or ():
            heard.finish_reason = choice.get("finish_reason") or heard.finish_reason
        if brings_text(event):
            heard.chunks_s.append(clock())
            if on_text is not None:
                on_text()
    return None


def _shortfall(heard: _Heard, request: LoadRequest) -> Problem | None:
    """What is missing from an answer whose stream ended in good order."""
    if heard.finish_reason is None:
        return Problem("cut", "the stream ended without a finish_reason")
    got = heard.usage.get("completion_tokens")
    if heard.finish_reason == "length" and got is not None and got < request.max_tokens:
        return Problem("cut", f"the server ended it after {got} of {request.max_tokens} tokens")
    return None


def _broken(error: Exception, heard: _Heard, *, began: bool) -> Problem | None:
    if heard.finish_reason is not None:
        return None  # the answer was whole; only the farewell was not
    text = f"{type(error).__name__}: {error}"
    return Problem("cut" if began else "unreachable", text[:MESSAGE_CHARACTERS])


def brings_text(event: dict[str, Any]) -> bool:
    """Whether an event carries text of the answer or of the reasoning before it."""
    choice = (event.get("choices") or [{}])[0]
    delta = choice.get("delta") or {}
    fields = (delta.get(name) for name in ("content", "reasoning_content", "reasoning"))
    return bool(choice.get("text") or any(fields))


def error_message(body: bytes) -> str:
    """The sentence of an error body: OpenAI's error object, FastAPI's `detail`, or the text."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")[:MESSAGE_CHARACTERS].strip() or "no text"
    return message_of(parsed.get("error", parsed) if isinstance(parsed, dict) else parsed)


def message_of(error: object) -> str:
    """The sentence in an error object."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or json.dumps(error)
    return str(error)[:MESSAGE_CHARACTERS]
