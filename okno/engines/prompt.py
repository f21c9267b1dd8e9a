"""Prompts to token ids.

The chat template's control tokens are the model's own language; the same characters in a message
are only characters. A message that spells a control token (`<|im_end|>`) would otherwise end its
own turn and begin another speaker's. So each such spelling is replaced by a nonce before the
template sees it, and encoded as plain text where the nonce comes out. A raw prompt
(`/v1/completions`) is the caller's own template: control tokens in it are meant.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, replace

from okno.core.errors import BadRequest, ContextExceeded
from okno.core.request import Message, Prompt
from okno.engines.engine import Engine, Vocabulary
from okno.engines.sandbox import Sandbox
from okno.engines.template import FALLBACK_TEMPLATE

NONCE_BEGIN, NONCE_END = "\ue0d0", "\ue0d1"  # private use: no template and no vocabulary has them


@dataclass(frozen=True, slots=True)
class Encoded:
    """The rendered text, for people, and what the model sees."""

    text: str
    tokens: list[int]


class PromptEncoder:
    """Thread-safe: the vocabulary is only read, the sandbox has its own lock."""

    def __init__(self, engine: Engine, sandbox: Sandbox) -> None:
        self._engine = engine
        self._vocab = engine.vocab
        self._facts = engine.facts
        self._adds_bos = engine.adds_bos
        self._template = engine.chat_template or FALLBACK_TEMPLATE
        self._sandbox = sandbox
        self._control = _spellings(self._vocab)
        self._longest_piece = max(map(len, map(self._vocab.label, range(self._vocab.n_tokens))))

    def encode(self, prompt: Prompt, *, now_s: float) -> list[int]:
        """The ids of a request's prompt. Raises BadRequest, BadTemplate or ContextExceeded."""
        if prompt.tokens is not None:
            return self.checked_ids(prompt.tokens, param="prompt")
        if prompt.messages is not None:
            chat = self.chat(prompt.messages, continue_last=prompt.continue_last, now_s=now_s)
            return chat.tokens
        text = prompt.text or ""
        self._check_length(text, "prompt")
        return self._vocab.encode(text, add_special=True, parse_special=True)

    def chat(self, messages: Tokens[Message], *, continue_last: bool, now_s: float) -> Encoded:
        """Messages through the model's chat template."""
        nonce = _Nonce(self._control)
        text = self._sandbox.render(
            self._template,
            [nonce.hide(message) for message in messages],
            special_tokens=self._special_texts(),
            add_generation_prompt=not continue_last,
            continue_last=continue_last,
            now_s=now_s,
        )
        self._check_length(text, "messages")
        return Encoded(nonce.shown(text), self._with_bos(nonce.encode(text, self._vocab)))

    def checked_ids(self, tokens: Tokens[int], *, param: str) -> list[int]:
        """`tokens`, or BadRequest naming the first id the model does not have."""
        for token in tokens:
            if not 0 <= token < self._vocab.n_tokens:
                raise BadRequest(
                    f"`{param}` holds token {token}; this model has ids 0 to "
                    f"{self._vocab.n_tokens - 1}.",
                    param=param,
                )
        return list(tokens)

    def exceeded(self, n_prompt_tokens: int, param: str, how_exact: str = "") -> ContextExceeded:
        """The error of a prompt that leaves no room for an answer."""
        return context_exceeded(n_prompt_tokens, self._engine.window.ctx, param, how_exact)

    def _check_length(self, text: str, param: str) -> None:
        """Refuse what cannot fit however it is tokenized, before spending time on it."""
        at_least = -(-len(text.encode()) // self._longest_piece)
        if at_least >= self._engine.window.ctx:
            raise self.exceeded(at_least, param, "at least ")

    def _with_bos(self, tokens: list[int]) -> list[int]:
        """Templates write BOS themselves when the model wants one; those that do not get it."""
        bos = self._facts.special_tokens.get("bos")
        if self._adds_bos and bos is not None and tokens[:1] != [bos]:
            return [bos, *tokens]
        return tokens

    def _special_texts(self) -> dict[str, str]:
        ids = self._facts.special_tokens
        return {
            f"{name}_token": self._vocab.label(ids[name]).decode(errors="replace")
            for name in ("bos", "eos")
            if name in ids
        }


def context_exceeded(
    n_prompt_tokens: int, ctx: int, param: str, how_exact: str = ""
) -> ContextExceeded:
    """The error of a prompt that leaves no room for an answer in a window of `ctx`."""
    return ContextExceeded(
        f"The prompt has {how_exact}{n_prompt_tokens:,} tokens and the context window is "
        f"{ctx:,}, which must hold the prompt and at least one token of the answer. "
        "Shorten the conversation, or serve with a larger --ctx.",
        param=param,
        n_prompt_tokens=n_prompt_tokens,
        n_ctx=ctx,
    )


class _Nonce:
    """Hides spellings of control tokens from the template, for one rendering."""

    def __init__(self, control: re.Pattern[str] | None) -> None:
        self._control = control
        self._hidden: list[str] = []
        self._begin = NONCE_BEGIN + secrets.token_hex(8)
        self._found = re.compile(f"{self._begin}(\\d+){NONCE_END}")

    def hide(self, message: Message) -> Message:
        if self._control is None or not self._control.search(message.content):
            return message
        return replace(message, content=self._control.sub(self._keep, message.content))

    def shown(self, text: str) -> str:
        """The text with the spellings back."""
        return self._found.sub(lambda m: self._hidden[int(m[1])], text) if self._hidden else text

    def encode(self, text: str, vocab: Vocabulary) -> list[int]:
        """Ids: control tokens where the template wrote them, plain text where a message did."""
        if not self._hidden:
            return vocab.encode(text, add_special=False, parse_special=True)
        return vocab.encode_parts(
            [
                (self._hidden[int(part)], False) if place % 2 else (part, True)
                for place, part in enumerate(self._found.split(text))
            ]
        )

    def _keep(self, match: re.Match[str]) -> str:
        self._hidden.append(match[0])
        return f"{self._begin}{len(self._hidden) - 1}{NONCE_END}"


def _spellings(vocab: Vocabulary) -> re.Pattern[str] | None:
    """Matches the text of any control token, longest first."""
    texts = {vocab.label(t).decode(errors="replace") for t in range(vocab.n_tokens)
             if vocab.special[t]} - {""}  # fmt: skip
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if texts else None
