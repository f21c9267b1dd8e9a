"""What happens to a request, in order: Accepted, Queued*, Delta*, then exactly one of Finished or
Failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from okno.core.errors import ErrorInfo

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its bytes and natural-log probability; `top` are the best alternatives."""

    token: int
    piece: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The prompt is tokenized and waits. cached_tokens is not known yet; see Usage. wait_s: seconds
    until its computing begins, as estimated now; None: nothing is known yet."""

    id: str
    prompt_tokens: int
    queue_position: int
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """It still waits and its place has changed; wait_s as in Accepted, from now."""

    id: str
    position: int
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """Newly generated tokens and the text that became certain with them (maybe empty: a stop
    string or a multi-byte character may still be open)."""

    id: str
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts: the prompt, of it reused from cache, and generated."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: waiting in the queue, from admission to the first token, from first to last."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """The end, after the last Delta, which brought all text; stop_string names the one that
    matched."""

    id: str
    reason: FinishReason
    stop_string: str | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True)
class Failed:
    """This request, and only this one, failed."""

    id: str
    error: ErrorInfo


Event = Accepted | Queued | Delta | Finished | Failed
