"""A request as core values: what to complete, how to sample, when to stop.

Bounds are checked once, in `Request.check`, before anything is allocated. A field that is out of
bounds raises BadRequest naming the field, the value and the allowed range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from okno.core.errors import BadRequest

MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 512
MAX_LOGIT_BIAS_TOKENS = 1024
MAX_CONSTRAINT_CHARS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn. `content` is text; parts are joined at the edge."""

    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Exactly one of: chat `messages`, raw `text` (tokenized with BOS as the model asks), `tokens`.

    continue_last: the last message is an assistant turn to be continued, not closed.
    """

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    continue_last: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Off values: top_k 0, top_p 1, min_p 0, typical_p 1, penalties
    0 (repetition 1). Order: bias, penalties, top_k, typical_p, top_p, min_p, temperature
    (llama.cpp's default order). temperature 0 is greedy.

    seed: None draws one at random at the edge, so that a replay repeats it.
    logprobs: None is off; n >= 0 asks for the chosen token's log probability and the n best
    alternatives, of the model's own distribution (before bias, penalties and truncation).
    penalty_last_n: how many of the last tokens (prompt included) repetition_penalty sees;
    frequency and presence penalties count generated tokens only, as OpenAI defines them.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    penalty_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """When to end. `strings` end the text before them, also across token borders; max_tokens None
    means until the window is full; ignore_eos never samples an end-of-generation token."""

    strings: tuple[str, ...] = ()
    max_tokens: int | None = None
    ignore_eos: bool = False
    include_stop: bool = False


ConstraintKind = Literal["json_object", "json_schema", "regex", "grammar"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the text must match. `source`: a JSON schema, a regex or a Lark/GBNF grammar."""

    kind: ConstraintKind
    source: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to complete. `n` choices are n requests that share a prompt.

    client: fairness key (API key or address). created_s: Unix time, also given to the template,
    so that a replay renders the same prompt.
    """

    id: str
    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    stop: Stop = field(default_factory=Stop)
    constraint: Constraint | None = None
    client: str = ""
    created_s: float = 0.0

    def check(self) -> None:
        """Raise BadRequest for the first field out of bounds."""
        _check_prompt(self.prompt)
        _check_sampling(self.sampling)
        _check_stop(self.stop)
        if self.constraint and len(self.constraint.source) > MAX_CONSTRAINT_CHARS:
            raise BadRequest(
                f"The {self.constraint.kind} has {len(self.constraint.source):,} characters; "
                f"at most {MAX_CONSTRAINT_CHARS:,} are accepted. Make it smaller.",
                param="response_format",
            )


def _check_prompt(prompt: Prompt) -> None:
    given = [x for x in (prompt.messages, prompt.text, prompt.tokens) if x is not None]
    if len(given) != 1:
        raise BadRequest("Give exactly one of messages, text or tokens.", param="prompt")
    if prompt.messages is not None and not prompt.messages:
        raise BadRequest("`messages` is empty; send at least one message.", param="messages")


def _number(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    inside = math.isfinite(value) and (low < value if open_low else low <= value) and value <= high
    if not inside:
        bracket = "(" if open_low else "["
        raise BadRequest(
            f"`{name}` is {value}; allowed is {bracket}{low:g}, {high:g}].", param=name
        )


def _check_sampling(s: Sampling) -> None:
    _number("temperature", s.temperature, 0, 10)
    _number("top_k", s.top_k, 0, 2**31 - 1)
    _number("top_p", s.top_p, 0, 1, open_low=True)
    _number("min_p", s.min_p, 0, 1)
    _number("typical_p", s.typical_p, 0, 1, open_low=True)
    _number("repetition_penalty", s.repetition_penalty, 0, 10, open_low=True)
    _number("penalty_last_n", s.penalty_last_n, -1, 2**31 - 1)
    _number("frequency_penalty", s.frequency_penalty, -2, 2)
    _number("presence_penalty", s.presence_penalty, -2, 2)
    if s.seed is not None:
        _number("seed", s.seed, -(2**63), 2**64 - 1)
    if s.logprobs is not None:
        _number("top_logprobs", s.logprobs, 0, MAX_LOGPROBS)
    _check_logit_bias(s.logit_bias)


def _check_logit_bias(bias: Mapping[int, float]) -> None:
    if len(bias) > MAX_LOGIT_BIAS_TOKENS:
        raise BadRequest(
            f"`logit_bias` names {len(bias):,} tokens; at most {MAX_LOGIT_BIAS_TOKENS:,} "
            "are accepted. Use a grammar to forbid many tokens.",
            param="logit_bias",
        )
    for token, value in bias.items():
        if token < 0:
            raise BadRequest(f"`logit_bias` names token {token}; ids start at 0.",
                             param="logit_bias")  # fmt: skip
        _number("logit_bias", value, -100, 100)


def _check_stop(stop: Stop) -> None:
    if len(stop.strings) > MAX_STOP_STRINGS:
        raise BadRequest(
            f"`stop` has {len(stop.strings)} strings; at most {MAX_STOP_STRINGS} are accepted.",
            param="stop",
        )
    for text in stop.strings:
        if not 0 < len(text) <= MAX_STOP_CHARS:
            raise BadRequest(
                f"A `stop` string has {len(text)} characters; 1 to {MAX_STOP_CHARS} are accepted.",
                param="stop",
            )
    if stop.max_tokens is not None and stop.max_tokens < 1:
        raise BadRequest(
            f"`max_tokens` is {stop.max_tokens}; it must be at least 1. "
            "Leave it out to generate until the window is full.",
            param="max_tokens",
        )
