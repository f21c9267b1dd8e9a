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
MAX_INT32 = 2**31 - 1
MAX_SALT_CHARS = 256


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers a field allows, ends included; `above`: all but the lowest."""

    low: float
    high: float
    above: bool = False

    def __str__(self) -> str:
        return f"{'above ' if self.above else ''}{shown(self.low)} to {shown(self.high)}"

    def allows(self, value: float) -> bool:
        inside = self.low < value if self.above else self.low <= value
        finite = isinstance(value, int) or math.isfinite(value)
        return finite and inside and value <= self.high


def shown(value: float) -> str:
    """A number for people: whole ones with separators, others as short as they stay exact."""
    if isinstance(value, int):
        return f"{value:,}"
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


BOUNDS: Mapping[str, Bounds] = {
    "temperature": Bounds(0, 10),
    "top_k": Bounds(0, MAX_INT32),
    "top_p": Bounds(0, 1, above=True),
    "min_p": Bounds(0, 1),
    "typical_p": Bounds(0, 1, above=True),
    "repetition_penalty": Bounds(0, 10, above=True),
    "penalty_last_n": Bounds(-1, MAX_INT32),
    "frequency_penalty": Bounds(-2, 2),
    "presence_penalty": Bounds(-2, 2),
    "seed": Bounds(-(2**63), 2**64 - 1),
    "top_logprobs": Bounds(0, MAX_LOGPROBS),
    "logit_bias": Bounds(-100, 100),
}


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


Priority = Literal["high", "normal", "low"]
PRIORITY_WEIGHTS: dict[Priority, float] = {"high": 4.0, "normal": 1.0, "low": 0.25}


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to complete. `n` choices are n requests that share a prompt.

    client: fairness key (API key or address). priority: of its share of service. cache_salt:
    prefixes are shared only among requests of the same. created_s: Unix time, also given to the
    template, so that a replay renders the same prompt.
    """

    id: str
    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    stop: Stop = field(default_factory=Stop)
    constraint: Constraint | None = None
    client: str = ""
    priority: Priority = "normal"
    cache_salt: str = ""
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
    for message in prompt.messages or ():
        _check_text(message.content, "messages")
    _check_text(prompt.text or "", "prompt")


def _check_text(text: str, param: str) -> None:
    """Text that UTF-8 can say; lone surrogates it cannot."""
    if not isinstance(text, str):
        raise BadRequest(f"`{param}` holds {type(text).__name__} instead of text.", param=param)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(
            f"`{param}` holds a lone surrogate, which is not a character; send valid Unicode.",
            param=param,
        ) from None


_NUMBERS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "penalty_last_n",
    "frequency_penalty", "presence_penalty",
)  # fmt: skip


def _number(name: str, value: float) -> None:
    if not BOUNDS[name].allows(value):
        raise BadRequest(f"`{name}` is {shown(value)}; allowed is {BOUNDS[name]}.", param=name)


def _check_sampling(s: Sampling) -> None:
    for name in _NUMBERS:
        _number(name, getattr(s, name))
    if s.seed is not None:
        _number("seed", s.seed)
    if s.logprobs is not None:
        _number("top_logprobs", s.logprobs)
    _check_logit_bias(s.logit_bias)


def _check_logit_bias(bias: Mapping[int, float]) -> None:
    if len(bias) > MAX_LOGIT_BIAS_TOKENS:
        raise BadRequest(
            f"`logit_bias` names {len(bias):,} tokens; at most {MAX_LOGIT_BIAS_TOKENS:,} "
            "are accepted. Use a grammar to forbid many tokens.",
            param="logit_bias",
        )
    for token, value in bias.items():
        if not 0 <= token <= MAX_INT32:
            raise BadRequest(f"`logit_bias` names token {token}; ids start at 0.",
                             param="logit_bias")  # fmt: skip
        _number("logit_bias", value)


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
    if stop.max_tokens is not None and not 1 <= stop.max_tokens <= MAX_INT32:
        raise BadRequest(
            f"`max_tokens` is {stop.max_tokens}; it must be at least 1 and below 2^31. "
            "Leave it out to generate until the window is full.",
            param="max_tokens",
        )
