"""Chat templates: messages to prompt text, as Hugging Face's transformers renders them.

A template comes with a model file and is untrusted. The environment here is sandboxed and
immutable, but that does not bound time or memory: only engines/sandbox.py may call `render`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from okno.core.errors import BadTemplate
from okno.core.request import Message

MAX_PROMPT_CHARS = 16 * 1024 * 1024
CONTINUE_HERE = "OKNO_CONTINUE_HERE_7f3a"

# ChatML, for models without a template of their own (facts.has_chat_template is False then).
FALLBACK_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# What a template can raise by being wrong; anything else is ours and ends the process.
TEMPLATE_FAILURES = (
    jinja2.TemplateError, ArithmeticError, AssertionError, AttributeError, LookupError,
    MemoryError, NameError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


class TemplateRefused(jinja2.TemplateError):
    """The template called raise_exception(message)."""


def render(
    template: str,
    messages: Sequence[Message],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool,
    continue_last: bool,
    now_s: float,
) -> str:
    """The prompt text. Raises BadTemplate with the reason.

    special_tokens: texts by name (bos_token, eos_token, ...). now_s: Unix time that
    strftime_now shows, in local time. continue_last: the text ends with the content of the last
    message, for the model to go on; add_generation_prompt is then ignored.
    """
    turns = [_turn(message) for message in messages]
    if continue_last:
        turns[-1]["content"] += CONTINUE_HERE + " "
    text = _render(
        template,
        {
            **special_tokens,
            "messages": turns,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt and not continue_last,
            "strftime_now": datetime.fromtimestamp(now_s).strftime,
        },
    )
    if len(text) > MAX_PROMPT_CHARS:
        raise BadTemplate(f"The chat template wrote more than {MAX_PROMPT_CHARS:,} characters.")
    return _cut_to_continue(text) if continue_last else text


def _turn(message: Message) -> dict[str, str]:
    turn = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    return turn


def _render(template: str, values: Mapping[str, Any]) -> str:
    try:
        return _compiled(template).render(**values)
    except TemplateRefused as error:
        raise BadTemplate(
            f"The model's chat template refused the messages: {error.message}", param="messages"
        ) from None
    except TEMPLATE_FAILURES as error:
        reason = str(error)[:300].rstrip(".") or type(error).__name__
        if isinstance(error, MemoryError):
            reason = "it needs too much memory"
        where = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise BadTemplate(
            f"The model's chat template failed{where}: {reason}. "
            "Send `prompt` instead of `messages`, or use a model with a working template."
        ) from None


def _cut_to_continue(text: str) -> str:
    """Everything before the marker; without trailing blanks if the template trims contents (the
    blank after the marker is gone then)."""
    at = text.rfind(CONTINUE_HERE)
    if at < 0:
        raise BadTemplate(
            "The last message cannot be continued: the model's chat template does not show it. "
            "Leave continuation off.",
            param="messages",
        )
    is_trimmed = not text.startswith(" ", at + len(CONTINUE_HERE))
    return text[:at].rstrip() if is_trimmed else text[:at]


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers defines it: no HTML escapes, Unicode as it is."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRefused(str(message))


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks answers for training; here only its body."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()
