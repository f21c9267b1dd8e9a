"""Server-sent events, written as bytes: what is constant in a chunk is encoded once per request.

Per token one string is encoded and three byte strings are joined; no model object, no dict.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from okno.core.events import Delta, Finished, TokenLogprob
from okno.server.replies import (
    FINISH_REASONS,
    chat_logprobs,
    text_logprobs,
    text_offsets,
    timings_body,
)

Kind = Literal["chat", "text"]

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
END = b"}\n\n"
OBJECTS: dict[Kind, str] = {"chat": "chat.completion.chunk", "text": "text_completion"}

_encode = msgspec.json.Encoder().encode
_LINE_BREAKS = ("\u2028", "\u2029", "\x85")


def json_line(value: object) -> bytes:
    """JSON without a line break of any kind, so that no reader splits it. JSON escapes the ASCII
    ones; these three only some readers (str.splitlines among them) take for line ends."""
    text = _encode(value)
    if text.isascii():
        return text
    for char in _LINE_BREAKS:
        text = text.replace(char.encode(), b"\\u%04x" % ord(char))
    return text


def event(value: object) -> bytes:
    return b"data: %b\n\n" % json_line(value)


class ChunkWriter:
    """Writes the chunks of one streamed answer."""

    def __init__(
        self, kind: Kind, id: str, model: str, created_s: int, choices: int, usage: bool
    ) -> None:
        self.kind = kind
        fixed = {"id": id, "object": OBJECTS[kind], "created": created_s, "model": model}
        self._head = b"data: " + json_line(fixed)[:-1]
        self._usage = b',"usage":null' if usage else b""
        opening = b'"delta":{"content":' if kind == "chat" else b'"text":'
        self._open = [
            b'%b,"choices":[{"index":%d,%b' % (self._head, i, opening) for i in range(choices)
        ]
        closing = b"}" if kind == "chat" else b""
        self._close = closing + b',"logprobs":null,"finish_reason":null}]' + self._usage + END
        self._closing = closing
        self._chars = [0] * choices

    def first(self, choice: int) -> bytes:
        """The chunk that opens a chat choice; text completions have none."""
        if self.kind == "text":
            return b""
        delta = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return b'%b,"choices":[{"index":%d,%b}]%b%b' % (
            self._head, choice, delta, self._usage, END,
        )  # fmt: skip

    def delta(self, choice: int, event: Delta) -> bytes:
        """The chunk of new text; b"" while the text is not certain yet."""
        if event.logprobs is not None:
            return self._with_logprobs(choice, event.text, event.logprobs)
        return self.text(choice, event.text) if event.text else b""

    def text(self, choice: int, text: str) -> bytes:
        self._chars[choice] += len(text)
        return self._open[choice] + json_line(text) + self._close

    def _with_logprobs(self, choice: int, text: str, tokens: tuple[TokenLogprob, ...]) -> bytes:
        if self.kind == "chat":
            body = chat_logprobs(tokens)
        else:
            body = text_logprobs(tokens, text_offsets(tokens, text, self._chars[choice]))
        self._chars[choice] += len(text)
        return b'%b%b%b,"logprobs":%b,"finish_reason":null}]%b%b' % (
            self._open[choice], json_line(text), self._closing, json_line(body), self._usage, END,
        )  # fmt: skip

    def final(self, choice: int, event: Finished) -> bytes:
        """The chunk with finish_reason and timings."""
        empty = b'"delta":{}' if self.kind == "chat" else b'"text":""'
        reason = json_line(FINISH_REASONS[event.reason])
        return b'%b,"choices":[{"index":%d,%b,"logprobs":null,"finish_reason":%b}]%b' % (
            self._head, choice, empty, reason,
            self._usage + b',"timings":' + json_line(timings_body([event])) + END,
        )  # fmt: skip

    def usage(self, body: dict[str, object]) -> bytes:
        return self._head + b',"choices":[],"usage":' + json_line(body) + END
