"""Wire structs to core values. Pure: every field is honoured, or refused with its name."""

from __future__ import annotations

import secrets
from typing import TypeVar

from okno.core.errors import BadRequest
from okno.core.request import (
    MAX_CONSTRAINT_CHARS,
    MAX_INT32,
    MAX_SALT_CHARS,
    PRIORITY_WEIGHTS,
    Constraint,
    ConstraintKind,
    Message,
    Priority,
    Prompt,
    Sampling,
    Stop,
)
from okno.server.schemas import (
    MAX_INPUTS,
    MAX_SEQUENCES,
    ChatFields,
    ChatMessage,
    CompletionFields,
    GenerationFields,
    ResponseFormat,
)
from okno.server.settings import GenerationDefaults
from okno.server.wire import decode_any, given, ignored_fields

MAX_SEED = 2**64
NO_TOOLS = "tool calls come with a later version"

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# Several names for one thing; the first is the one that messages and docs use.
MAX_TOKENS = ("max_tokens", "max_completion_tokens")
PENALTY = ("repetition_penalty", "repeat_penalty")
REGEX = ("regex", "guided_regex")
GRAMMAR = ("grammar", "guided_grammar")

V = TypeVar("V")


def chosen(body: GenerationFields, names: tuple[str, ...]) -> str | None:
    """The name that the client used; two with different values are refused."""
    given = {name: value for name in names if (value := getattr(body, name, None)) is not None}
    used = list(given)
    if any(given[name] != given[used[0]] for name in used):
        raise BadRequest(
            f"`{used[0]}` and `{used[1]}` mean the same and differ; send one.", param=used[1]
        )
    return used[0] if used else None


def or_default(value: V | None, default: V) -> V:
    return default if value is None else value


# Sampling and stopping --------------------------------------------------------------------------


def sampling(body: GenerationFields, logprobs: int | None, off: Sampling) -> Sampling:
    """The sampling of choice 0: what `body` leaves out is as in `off`. A seed that neither gives is
    drawn here, so that a replay repeats it."""
    chosen(body, PENALTY)
    penalty = or_default(body.repetition_penalty, body.repeat_penalty)
    seed = or_default(body.seed, off.seed)
    check_bias(body.logit_bias or {})
    return Sampling(
        temperature=or_default(body.temperature, off.temperature),
        top_k=0 if body.top_k == -1 else or_default(body.top_k, off.top_k),
        top_p=or_default(body.top_p, off.top_p),
        min_p=or_default(body.min_p, off.min_p),
        typical_p=or_default(body.typical_p, off.typical_p),
        repetition_penalty=or_default(penalty, off.repetition_penalty),
        penalty_last_n=or_default(body.repeat_last_n, off.penalty_last_n),
        frequency_penalty=or_default(body.frequency_penalty, off.frequency_penalty),
        presence_penalty=or_default(body.presence_penalty, off.presence_penalty),
        seed=drawn_seed() if seed is None else seed,
        logit_bias=body.logit_bias or {},
        logprobs=logprobs,
    )


def drawn_seed() -> int:
    return secrets.randbits(63)


def check_bias(bias: dict[int, float]) -> None:
    for token in bias:
        check_token(token, "logit_bias")


def check_token(token: int, param: str) -> None:
    if not 0 <= token <= MAX_INT32:
        raise BadRequest(
            f"`{param}` names token {str(token)[:20]}, which cannot exist.", param=param
        )


def nth_seed(seed: int, k: int) -> int:
    """The seed of choice k; wraps at the top of the range."""
    return seed + k if seed + k < MAX_SEED else seed + k - MAX_SEED


def stop(body: GenerationFields, defaults: GenerationDefaults) -> Stop:
    """When choice 0 ends. A list without a text in `stop` is a choice too: nothing stops it."""
    chosen(body, MAX_TOKENS)
    asked = or_default(body.max_tokens, getattr(body, "max_completion_tokens", None))
    limit = or_default(asked, defaults.max_tokens)
    strings = (body.stop,) if isinstance(body.stop, str) else body.stop
    return Stop(
        strings=tuple(or_default(strings, defaults.stop)),
        max_tokens=None if limit is None else min(limit, MAX_INT32),
        ignore_eos=bool(body.ignore_eos),
        include_stop=bool(body.include_stop_str_in_output),
    )


def choices(body: GenerationFields, prompts: int = 1) -> int:
    """n, checked: at most MAX_SEQUENCES sequences per HTTP request."""
    n = or_default(body.n, 1)
    if not 1 <= n <= MAX_SEQUENCES // prompts:
        raise BadRequest(
            f"`n` is {n:,}; allowed is 1 to {MAX_SEQUENCES // prompts}"
            + (f" for {prompts} prompts." if prompts > 1 else "."),
            param="n",
        )
    return n


def wants_usage(body: GenerationFields) -> bool:
    if body.stream_options is not None and not body.stream:
        raise BadRequest("`stream_options` needs `stream: true`.", param="stream_options")
    return body.stream_options is not None and bool(body.stream_options.include_usage)


# Names ------------------------------------------------------------------------------------------


def wire_names(body: GenerationFields) -> dict[str, str]:
    """What the client called the fields that are checked under their core names."""
    names = {"penalty_last_n": "repeat_last_n"}
    if isinstance(body, ChatFields):
        names["prompt"] = "messages"
    else:
        names["top_logprobs"] = "logprobs"
    for aliases in (MAX_TOKENS, PENALTY):
        names[aliases[0]] = chosen(body, aliases) or aliases[0]
    if field := constraint(body)[0]:
        names["response_format"] = field
    return names


def priority(asked: str | None) -> Priority:
    """Of the `okno-priority` header; `normal` without one."""
    if asked is None:
        return "normal"
    for known in PRIORITY_WEIGHTS:
        if asked.strip().lower() == known:
            return known
    raise BadRequest(
        f"The header okno-priority is {asked[:40]!r}; it is one of {', '.join(PRIORITY_WEIGHTS)}.",
        param="okno-priority",
    )


def cache_salt(body: GenerationFields) -> str:
    salt = body.cache_salt or ""
    if len(salt) > MAX_SALT_CHARS:
        raise BadRequest(
            f"`cache_salt` has {len(salt):,} characters; at most {MAX_SALT_CHARS} are accepted.",
            param="cache_salt",
        )
    return salt


def ignored(body: GenerationFields) -> list[str]:
    """The names in `body` that have no effect, those of its parts included."""
    found = ignored_fields(body)
    if body.stream_options is not None and body.stream_options.include_obfuscation is not None:
        found.append("stream_options.include_obfuscation")
    return found + (ignored_in(body.messages) if isinstance(body, ChatFields) else [])


def ignored_in(turns: list[ChatMessage]) -> list[str]:
    """The names in messages that have no effect, each once."""
    return [
        f"messages[].{name}"
        for name in ("reasoning_content", "refusal", "annotations")
        if any(given(getattr(turn, name)) not in (b"", b"[]", b'""') for turn in turns)
    ]


# Constraints ------------------------------------------------------------------------------------


def constraint(body: GenerationFields) -> tuple[str, Constraint | None]:
    """The one constraint of the request and the field it came in; two at once are refused."""
    found = [
        ("response_format", format_constraint(body.response_format)),
        text_constraint("regex", body, REGEX),
        text_constraint("grammar", body, GRAMMAR),
        ("guided_json", guided_json(given(body.guided_json))),
    ]
    active = [(name, value) for name, value in found if value is not None]
    if len(active) > 1:
        raise BadRequest(
            f"`{active[0][0]}` and `{active[1][0]}` cannot hold at once; send one.",
            param=active[1][0],
        )
    return active[0] if active else ("", None)


def text_constraint(
    kind: ConstraintKind, body: GenerationFields, names: tuple[str, ...]
) -> tuple[str, Constraint | None]:
    name = chosen(body, names)
    return (name, Constraint(kind, bounded(getattr(body, name), name))) if name else ("", None)


def bounded(source: str, param: str) -> str:
    if len(source) > MAX_CONSTRAINT_CHARS:
        raise BadRequest(
            f"`{param}` has {len(source):,} characters; at most {MAX_CONSTRAINT_CHARS:,} "
            "are accepted.",
            param=param,
        )
    return source


SCHEMA_PLACES: dict[str, tuple[str, ...]] = {
    "text": (),
    "json_object": ("schema",),
    "json_schema": ("json_schema", "schema"),
}


def format_constraint(wanted: ResponseFormat | None) -> Constraint | None:
    if wanted is None:
        return None
    if wanted.type not in SCHEMA_PLACES:
        raise BadRequest(
            f"`response_format.type` is {wanted.type[:40]!r}; known: {', '.join(SCHEMA_PLACES)}.",
            param="response_format.type",
        )
    schema = schema_of(wanted)
    if wanted.type == "text":
        return None
    if wanted.type == "json_object" and schema in (b"", b"{}"):
        return Constraint("json_object")
    return schema_constraint(schema, "response_format")


def schema_of(wanted: ResponseFormat) -> bytes:
    """The schema, in OpenAI's place or in llama-server's; one that would have no effect is
    refused."""
    wrapper, bare = wanted.json_schema, given(wanted.schema)
    there = {"json_schema": wrapper is not None, "schema": bool(bare)}
    places = [name for name, is_there in there.items() if is_there]
    for name in places:
        if name not in SCHEMA_PLACES[wanted.type]:
            raise BadRequest(
                f"`response_format.{name}` has no effect with the type `{wanted.type}`; "
                "send the type `json_schema`.",
                param=f"response_format.{name}",
            )
    if len(places) > 1:
        raise BadRequest(
            "`response_format` has `json_schema` and `schema`; send one.",
            param="response_format.schema",
        )
    schema = given(wrapper.schema) if wrapper is not None else bare
    if wanted.type == "json_schema" and not schema:
        param = "response_format.json_schema.schema"
        raise BadRequest(f"`{param}` is missing.", param=param)
    return schema


def guided_json(raw: bytes) -> Constraint | None:
    """A schema as an object, or as the text of one."""
    if raw.startswith(b'"'):
        raw = str(decode_any(raw, "guided_json", MAX_CONSTRAINT_CHARS)).encode()
    return schema_constraint(raw, "guided_json") if raw else None


def schema_constraint(raw: bytes, param: str) -> Constraint:
    if not isinstance(decode_any(raw, param, MAX_CONSTRAINT_CHARS), dict):
        raise BadRequest(f"`{param}`: the schema must be a JSON object.", param=param)
    return Constraint("json_schema", bounded(raw.decode(), param))


# Chat -------------------------------------------------------------------------------------------


def chat_prompt(body: ChatFields) -> Prompt:
    go_on = bool(body.continue_final_message)
    if body.add_generation_prompt is not None and body.add_generation_prompt == go_on:
        raise BadRequest(
            "`add_generation_prompt` must be the opposite of `continue_final_message`.",
            param="add_generation_prompt",
        )
    return Prompt(messages=messages(body.messages, go_on), continue_last=go_on)


def messages(turns: list[ChatMessage], continue_last: bool = False) -> tuple[Message, ...]:
    parsed = tuple(message(turn, f"messages[{i}]") for i, turn in enumerate(turns))
    if continue_last and (not parsed or parsed[-1].role != "assistant"):
        raise BadRequest(
            "`continue_final_message` needs an assistant message at the end of `messages`.",
            param="continue_final_message",
        )
    return parsed


def message(turn: ChatMessage, where: str) -> Message:
    for name in ("tool_calls", "function_call", "tool_call_id"):
        if given(getattr(turn, name)) not in (b"", b"[]"):
            raise BadRequest(f"`{where}.{name}`: {NO_TOOLS}.", param=f"{where}.{name}")
    if given(turn.audio):
        raise BadRequest(f"`{where}.audio`: only text is read here.", param=f"{where}.audio")
    if turn.role in ("tool", "function"):
        raise BadRequest(f"`{where}.role` is {turn.role!r}: {NO_TOOLS}.", param=f"{where}.role")
    if turn.role not in ROLES:
        raise BadRequest(
            f"`{where}.role` is {turn.role[:40]!r}; known are {', '.join(ROLES)}.",
            param=f"{where}.role",
        )
    return Message(ROLES[turn.role], content(turn, where), turn.name)


def content(turn: ChatMessage, where: str) -> str:
    """The text of a message; several text parts become lines."""
    if isinstance(turn.content, str):
        return turn.content
    if turn.content is None:
        raise BadRequest(f"`{where}.content` is missing.", param=f"{where}.content")
    texts = []
    for i, part in enumerate(turn.content):
        if part.type != "text" or part.text is None:
            raise BadRequest(
                f"`{where}.content[{i}]` is of type {part.type[:40]!r}; only text is read here.",
                param=f"{where}.content[{i}]",
            )
        texts.append(part.text)
    return "\n".join(texts)


def chat_logprobs(body: ChatFields) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
    return or_default(body.top_logprobs, 0) if body.logprobs else None


def refuse_tools(body: ChatFields) -> None:
    """Tools are a later version; the forms that mean "none" pass."""
    for name in ("tools", "functions"):
        if given(getattr(body, name)) not in (b"", b"[]"):
            raise BadRequest(f"`{name}`: {NO_TOOLS}.", param=name)
    for name in ("tool_choice", "function_call"):
        if given(getattr(body, name)) not in (b"", b'"none"', b'"auto"'):
            raise BadRequest(f"`{name}`: {NO_TOOLS}.", param=name)
    if body.modalities not in (None, ["text"]):
        raise BadRequest("`modalities`: only text is produced here.", param="modalities")


# Completions and embeddings ---------------------------------------------------------------------


def inputs(value: str | list[str | int | list[int]], param: str) -> list[str | tuple[int, ...]]:
    """Text, texts, tokens or token lists as a list of inputs."""
    if isinstance(value, str):
        return [value]
    if not value:
        raise BadRequest(f"`{param}` is empty.", param=param)
    if all(isinstance(x, int) for x in value):
        return [tokens(value, param)]
    if len(value) > MAX_INPUTS:
        raise BadRequest(
            f"`{param}` has {len(value):,} inputs; at most {MAX_INPUTS:,}.", param=param
        )
    return [x if isinstance(x, str) else tokens(x, param) for x in value]


def tokens(value: object, param: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise BadRequest(f"`{param}`: texts, or lists of token ids, not a mixture.", param=param)
    for token in value:
        check_token(token, param)
    return tuple(value)


def completion_prompts(body: CompletionFields) -> list[Prompt]:
    found = inputs(body.prompt, "prompt")
    if len(found) > MAX_SEQUENCES:
        raise BadRequest(
            f"`prompt` has {len(found):,} prompts; at most {MAX_SEQUENCES}.", param="prompt"
        )
    return [Prompt(text=x) if isinstance(x, str) else Prompt(tokens=x) for x in found]


def check_completion(body: CompletionFields) -> None:
    if body.suffix:
        raise BadRequest("`suffix`: filling the middle is not supported.", param="suffix")
    if body.best_of is not None and body.best_of != or_default(body.n, 1):
        raise BadRequest("`best_of` must equal `n`; all choices are returned.", param="best_of")
    if body.echo and body.logprobs is not None:
        raise BadRequest("`echo` with `logprobs` is not supported; send one.", param="echo")
