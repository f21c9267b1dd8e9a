"""The fields of the API, each with one line of documentation: the only list there is.

Three fates: declared in a struct below (honoured), in IGNORED (harmless: accepted and named in the
`okno-ignored` header; IGNORED_INSIDE: those below the top level), or in REFUSED (would change the
result: 400 that says what to do instead; null passes, as everywhere).
Any other name is refused with the nearest known one. docs/http-api.md is checked against this.
"""

from __future__ import annotations

from typing import Annotated, TypeVar, cast

import msgspec
from msgspec import Meta, Raw, Struct

from okno.core.request import (
    BOUNDS,
    MAX_CONSTRAINT_CHARS,
    MAX_LOGIT_BIAS_TOKENS,
    MAX_SALT_CHARS,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    Sampling,
    shown,
)

MAX_SEQUENCES = 128
MAX_INPUTS = 2048
MAX_TEXT_CHARS = 1024 * 1024  # of /tokenize
MAX_TEXT_TOKENS = 256 * 1024  # of /detokenize

_OFF = Sampling()

T = TypeVar("T", bound=Struct)


def about(text: str) -> Meta:
    return Meta(description=text)


def number(name: str, text: str, core: str = "") -> Meta:
    """The description of a number: its bounds, its default, what it does."""
    bounds = str(BOUNDS[core or name])
    default = shown(getattr(_OFF, core or name))
    return about(f"{bounds[0].upper()}{bounds[1:]}, default {default}{text}")


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SchemaFormat(Struct, forbid_unknown_fields=True):
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema: Raw = Raw()


class ResponseFormat(Struct, forbid_unknown_fields=True):
    """`json_schema` is OpenAI's wrapper of the schema, `schema` llama-server's place for it."""

    type: str
    json_schema: SchemaFormat | None = None
    schema: Raw = Raw()


class Part(Struct):
    """One part of a message's content; keys beside type and text carry no text."""

    type: str
    text: str | None = None


class ChatMessage(Struct, forbid_unknown_fields=True):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: Raw = Raw()
    tool_call_id: Raw = Raw()
    function_call: Raw = Raw()
    refusal: Raw = Raw()
    audio: Raw = Raw()
    annotations: Raw = Raw()
    reasoning_content: Raw = Raw()


class GenerationFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """What chat and text completions share. null means: as if left out."""

    model: Annotated[
        str | None,
        about("A name from /v1/models. Left out, empty or `default`: the served model. Else 404."),
    ] = None
    temperature: Annotated[
        float | None,
        number("temperature", ". 0 always takes the most probable token (greedy)."),
    ] = None
    top_p: Annotated[
        float | None,
        number("top_p", " (off): the smallest set with this probability."),
    ] = None
    top_k: Annotated[int | None, about("The k best tokens; 0 (default) and -1 are off.")] = None
    min_p: Annotated[
        float | None, number("min_p", " (off): at least this share of the best probability.")
    ] = None
    typical_p: Annotated[float | None, number("typical_p", " (off): locally typical sampling.")] = (
        None
    )
    repetition_penalty: Annotated[
        float | None, number("repetition_penalty", " (off): divides logits of recent tokens.")
    ] = None
    repeat_penalty: Annotated[float | None, about("Another name of `repetition_penalty`.")] = None
    repeat_last_n: Annotated[
        int | None,
        about(
            "How many last tokens `repetition_penalty` sees; "
            f"default {_OFF.penalty_last_n}, -1 all, 0 none."
        ),
    ] = None
    frequency_penalty: Annotated[
        float | None, number("frequency_penalty", ": per earlier occurrence in the answer.")
    ] = None
    presence_penalty: Annotated[
        float | None, number("presence_penalty", ": once for every token already in the answer.")
    ] = None
    seed: Annotated[
        int | None,
        about("Repeats a draw, alone or in a batch. Default: random. Choice k uses seed + k."),
    ] = None
    logit_bias: Annotated[
        dict[int, float] | None,
        about(
            f"Token id (as a string): {BOUNDS['logit_bias']}, added to its logit; "
            f"at most {MAX_LOGIT_BIAS_TOKENS:,} tokens."
        ),
    ] = None
    stop: Annotated[
        str | list[str] | None,
        about(
            f"A text or up to {MAX_STOP_STRINGS}, each of at most {MAX_STOP_CHARS} characters; "
            "the answer ends before the first one, also across tokens."
        ),
    ] = None
    include_stop_str_in_output: Annotated[
        bool | None, about("true: the stop text stays at the end of the answer.")
    ] = None
    n: Annotated[
        int | None,
        about(f"Choices per prompt, 1 to {MAX_SEQUENCES} in all; they share the prompt's cells."),
    ] = None
    max_tokens: Annotated[
        int | None, about("At most so many tokens, 1 or more. Left out: until the window is full.")
    ] = None
    ignore_eos: Annotated[
        bool | None, about("true: never end by the model's own end-of-generation token.")
    ] = None
    stream: Annotated[bool | None, about("true: server-sent events.")] = None
    stream_options: Annotated[
        StreamOptions | None,
        about("`include_usage`: one more chunk with `usage` before the end. Only with `stream`."),
    ] = None
    response_format: Annotated[
        ResponseFormat | None,
        about(
            "`type`: `text`, `json_object` (with `schema`: that schema), or `json_schema` "
            "with `json_schema: {name, schema}` or `schema`. "
            f"A schema has at most {MAX_CONSTRAINT_CHARS:,} characters; it is always enforced."
        ),
    ] = None
    regex: Annotated[str | None, about("A regular expression the whole answer matches.")] = None
    guided_regex: Annotated[str | None, about("Another name of `regex`.")] = None
    grammar: Annotated[str | None, about("A Lark or GBNF grammar the answer matches.")] = None
    guided_grammar: Annotated[str | None, about("Another name of `grammar`.")] = None
    guided_json: Annotated[
        Raw, about("A JSON schema (object, or text of one); as `response_format: json_schema`.")
    ] = Raw()
    user: Annotated[
        str | None,
        about("Whose request this is, for fair queueing, where no API key is set (else: address)."),
    ] = None
    cache_salt: Annotated[
        str | None,
        about(
            f"At most {MAX_SALT_CHARS} characters. Computed prefixes are shared only among "
            "requests of the same salt: no other's answer time tells what was asked before."
        ),
    ] = None


class ChatFields(GenerationFields, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[
        list[ChatMessage],
        about("The conversation. Roles system, developer (= system), user, assistant; text only."),
    ]
    max_completion_tokens: Annotated[int | None, about("Another name of `max_tokens`.")] = None
    logprobs: Annotated[
        bool | None, about("true: the log probability of every token of the answer.")
    ] = None
    top_logprobs: Annotated[
        int | None,
        about(f"{BOUNDS['top_logprobs']} alternatives per token; needs `logprobs`."),
    ] = None
    continue_final_message: Annotated[
        bool | None, about("true: go on with the last message, an assistant's, without closing it.")
    ] = None
    add_generation_prompt: Annotated[
        bool | None, about("Only the opposite of `continue_final_message`; else refused.")
    ] = None
    modalities: Annotated[list[str] | None, about('Only `["text"]`.')] = None
    tools: Annotated[Raw, about("Only empty: tool calls come with a later version.")] = Raw()
    tool_choice: Annotated[Raw, about('Only `"none"`, or `"auto"` without tools.')] = Raw()
    functions: Annotated[Raw, about("Only empty (the old form of `tools`).")] = Raw()
    function_call: Annotated[Raw, about('Only `"none"` or `"auto"` without functions.')] = Raw()


class CompletionFields(GenerationFields, kw_only=True, forbid_unknown_fields=True):
    prompt: Annotated[
        str | list[str | int | list[int]],
        about("Text, list of texts, token ids, or list of those. No chat template is applied."),
    ]
    logprobs: Annotated[
        int | None,
        about(
            f"{BOUNDS['top_logprobs']} alternatives per token, "
            "with the chosen one's log probability."
        ),
    ] = None
    echo: Annotated[
        bool | None, about("true: the prompt stands before the answer. Not with `logprobs`.")
    ] = None
    best_of: Annotated[int | None, about("Only equal to `n`.")] = None
    suffix: Annotated[str | None, about("Only empty: filling the middle is not supported.")] = None


class EmbeddingFields(Struct, kw_only=True, forbid_unknown_fields=True):
    input: Annotated[
        str | list[str | int | list[int]],
        about(f"Text, list of texts, token ids, or list of those; at most {MAX_INPUTS:,} inputs."),
    ]
    model: Annotated[str | None, about("As in chat completions.")] = None
    encoding_format: Annotated[
        str | None, about("`float` (default) or `base64` (float32, little-endian).")
    ] = None
    dimensions: Annotated[
        int | None, about("Only the model's own number: vectors are never cut.")
    ] = None
    normalize: Annotated[bool | None, about("Default true: vectors of length 1.")] = None
    user: Annotated[str | None, about("Accepted; embeddings are answered in order.")] = None


class TokenizeFields(Struct, kw_only=True, forbid_unknown_fields=True):
    content: Annotated[str, about(f"The text, at most {MAX_TEXT_CHARS:,} characters.")]
    add_special: Annotated[
        bool | None, about("Default false. true: BOS and EOS as the model asks.")
    ] = None
    parse_special: Annotated[
        bool | None, about("Default true: text such as `<|im_end|>` becomes its special token.")
    ] = None
    with_pieces: Annotated[
        bool | None,
        about("Default false. true: `{id, piece}`; a piece that is no UTF-8 is a byte list."),
    ] = None
    model: Annotated[str | None, about("As in chat completions.")] = None


class DetokenizeFields(Struct, kw_only=True, forbid_unknown_fields=True):
    tokens: Annotated[list[int], about(f"Token ids, at most {MAX_TEXT_TOKENS:,}.")]
    model: Annotated[str | None, about("As in chat completions.")] = None


class TemplateFields(Struct, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[ChatMessage], about("As in chat completions.")]
    continue_final_message: Annotated[bool | None, about("As in chat completions.")] = None
    model: Annotated[str | None, about("As in chat completions.")] = None


IGNORED = {
    "metadata": "the caller's own notes",
    "store": "nothing is stored",
    "service_tier": "there is one tier",
    "safety_identifier": "nobody is reported to anybody",
    "prompt_cache_key": "prefixes are found by their tokens",
    "prompt_cache_retention": "prefixes stay until their cells are needed",
    "prediction": "would only change speed",
    "parallel_tool_calls": "there are no tool calls",
    "cache_prompt": "prefixes are always reused",
    "id_slot": "slots are assigned by the server",
    "timings_per_token": "`timings` come at the end",
    "return_progress": "no progress events yet",
    "priority": "send the header `okno-priority`: high, normal or low",
    "request_id": "ids are made by the server",
}

IGNORED_INSIDE = {
    "stream_options.include_obfuscation": "nothing is padded",
    "messages[].reasoning_content": "only `content` reaches the template",
    "messages[].refusal": "only `content` reaches the template",
    "messages[].annotations": "only `content` reaches the template",
}

_WINDOW = "the window belongs to the server: start it with --ctx"
_SAMPLER = "this sampler does not exist here"
_MAX = "use max_tokens"
_TEMPLATE = "the model's own chat template is used"
_STOP = "use stop with texts"
_FORMAT = "use response_format"

REFUSED = {
    "num_ctx": _WINDOW,
    "n_ctx": _WINDOW,
    "options": "write the fields of Ollama's `options` at the top level",
    "format": _FORMAT,
    "json_schema": _FORMAT,
    "structured_outputs": "use response_format, regex or grammar",
    "guided_choice": "use regex, as in (one|two)",
    "num_predict": _MAX,
    "n_predict": _MAX,
    "max_new_tokens": _MAX,
    "min_tokens": "use ignore_eos with max_tokens, or a regex",
    "mirostat": _SAMPLER,
    "mirostat_tau": _SAMPLER,
    "mirostat_eta": _SAMPLER,
    "mirostat_mode": _SAMPLER,
    "dry_multiplier": _SAMPLER,
    "dry_base": _SAMPLER,
    "dry_allowed_length": _SAMPLER,
    "dry_sequence_breakers": _SAMPLER,
    "xtc_probability": _SAMPLER,
    "xtc_threshold": _SAMPLER,
    "tfs_z": _SAMPLER,
    "top_n_sigma": _SAMPLER,
    "dynatemp_range": _SAMPLER,
    "dynatemp_exponent": _SAMPLER,
    "samplers": "the order is fixed: penalties, top_k, typical_p, top_p, min_p, temperature",
    "min_keep": _SAMPLER,
    "use_beam_search": _SAMPLER,
    "length_penalty": _SAMPLER,
    "typical": "use typical_p",
    "penalty_last_n": "use repeat_last_n",
    "n_keep": "a conversation is never cut",
    "n_discard": "a conversation is never cut",
    "truncate": "a conversation is never cut",
    "truncate_prompt_tokens": "a conversation is never cut",
    "truncation": "a conversation is never cut",
    "n_probs": "use top_logprobs",
    "prompt_logprobs": "log probabilities of the prompt are not computed",
    "bad_words": "use logit_bias",
    "stop_token_ids": _STOP,
    "stop_sequences": _STOP,
    "skip_special_tokens": "special tokens are never part of the text",
    "spaces_between_special_tokens": "special tokens are never part of the text",
    "logits_processors": "code is never run for a request",
    "chat_template": _TEMPLATE,
    "chat_template_kwargs": _TEMPLATE,
    "enable_thinking": _TEMPLATE,
    "reasoning_effort": "the served model has no such control",
    "reasoning": "the served model has no such control",
    "thinking": "the served model has no such control",
    "verbosity": "the served model has no such control",
    "audio": "text only",
    "images": "text only",
    "input": "use messages or prompt",
    "web_search_options": "nothing is fetched from the network",
    "lora": "adapters are given to the server (--lora) and applied to every request",
    "system": "send it as a message with the role system",
    "moderation": "there is no moderation",
}


def complete(fields: type[T]) -> type[T]:
    """`fields` plus the IGNORED names, whose values are never looked into, and the REFUSED ones,
    which may only be null."""
    own = fields.__struct_fields__
    extra: list[tuple[str, object, object]] = [(name, Raw, Raw()) for name in IGNORED]
    extra += [(name, None, None) for name in REFUSED if name not in own]
    struct = msgspec.defstruct(
        fields.__name__.replace("Fields", "Body"), extra, bases=(fields,),
        kw_only=True, forbid_unknown_fields=True,
    )  # fmt: skip
    return cast("type[T]", struct)


ChatBody = complete(ChatFields)
CompletionBody = complete(CompletionFields)
EmbeddingBody = complete(EmbeddingFields)
