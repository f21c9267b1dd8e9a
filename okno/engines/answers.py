"""Answers to tokenize, detokenize and embed, computed beside the loop (embeddings: prepared)."""

from __future__ import annotations

import time

from okno.engines.engine import Engine
from okno.engines.loop import EmbedJob
from okno.engines.prompt import PromptEncoder
from okno.engines.protocol import Detokenize, Detokenized, Embed, Tokenize, Tokenized


class Answers:
    """Raises OknoError from each for what cannot be answered."""

    def __init__(self, engine: Engine, prompts: PromptEncoder) -> None:
        self._facts = engine.facts
        self._vocab = engine.vocab
        self._prompts = prompts

    def tokenized(self, call: Tokenize) -> Tokenized:
        text, tokens = self._tokens(call)
        pieces = [self._vocab.label(t) for t in tokens] if call.with_pieces else []
        return Tokenized(call.call, tokens, pieces, text)

    def detokenized(self, call: Detokenize) -> Detokenized:
        tokens = self._prompts.checked_ids(call.tokens, param="tokens")
        read = self._vocab.label if call.special else self._vocab.pieces.__getitem__
        return Detokenized(call.call, b"".join(map(read, tokens)))

    def embed_job(self, call: Embed) -> EmbedJob:
        inputs = [
            self._vocab.encode(item, add_special=True, parse_special=False)
            if isinstance(item, str)
            else self._prompts.checked_ids(item, param="input")
            for item in call.inputs
        ]
        return EmbedJob(call.call, inputs, call.normalize, self._embedding_note())

    def _tokens(self, call: Tokenize) -> tuple[str, list[int]]:
        if call.messages is not None:
            chat = self._prompts.chat(
                call.messages, continue_last=call.continue_last, now_s=time.time()
            )
            return chat.text, chat.tokens
        text = call.text or ""
        return text, self._vocab.encode(
            text, add_special=call.add_special, parse_special=call.parse_special
        )

    def _embedding_note(self) -> str:
        if self._facts.is_embedding_model:
            return ""
        return (
            f"{self._facts.name} is not an embedding model: these are its last hidden states, "
            "averaged over the input. For search, serve an embedding model."
        )
