"""The calls of an EngineClient that are one question and one answer, typed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from okno.core.request import Message
from okno.core.window import WindowChange
from okno.engines.protocol import (
    Answer,
    Call,
    Detokenize,
    Detokenized,
    Embed,
    Embedded,
    Inspect,
    Inspection,
    Recall,
    Recalled,
    Resize,
    Resized,
    Tokenize,
    Tokenized,
)


class CallClient(ABC):
    """Turns each method into a message and its answer; how they travel is `_call`'s business."""

    @abstractmethod
    async def _call(self, message: Callable[[int], Call]) -> Answer:
        """The answer to the message made of a call number. Raises the worker's OknoError."""

    async def tokenize(
        self,
        text: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        add_special: bool = False,
        parse_special: bool = False,
        continue_last: bool = False,
        with_pieces: bool = False,
    ) -> Tokenized:
        turns = None if messages is None else tuple(messages)
        answer = await self._call(
            lambda number: Tokenize(
                number, text, turns, add_special, parse_special, continue_last, with_pieces
            )
        )
        assert isinstance(answer, Tokenized)
        return answer

    async def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> Detokenized:
        answer = await self._call(lambda number: Detokenize(number, tuple(tokens), special))
        assert isinstance(answer, Detokenized)
        return answer

    async def embed(
        self, inputs: Sequence[str | tuple[int, ...]], *, normalize: bool = True
    ) -> Embedded:
        answer = await self._call(lambda number: Embed(number, tuple(inputs), normalize))
        assert isinstance(answer, Embedded)
        return answer

    async def inspect(self) -> Inspection:
        answer = await self._call(Inspect)
        assert isinstance(answer, Inspection)
        return answer

    async def steps(self, last: int) -> Recalled:
        answer = await self._call(lambda number: Recall(number, last))
        assert isinstance(answer, Recalled)
        return answer

    async def resize(self, change: WindowChange) -> Resized:
        answer = await self._call(lambda number: Resize(number, change))
        assert isinstance(answer, Resized)
        return answer
