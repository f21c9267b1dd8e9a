"""The model's vocabulary through llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as lib

from okno.engines.added_tokens import AddedTokens
from okno.engines.library_encoder import LibraryEncoder, library_encoder
from okno.engines.text_rules import TextRules, metadata_text, prepared, stripped, text_rules

_CONTROL = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
_ADDED = _CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED


class LlamaVocabulary:
    """engines.engine.Vocabulary over a llama_vocab pointer. Thread-safe: reads only."""

    def __init__(
        self,
        vocab: lib.llama_vocab_p,
        rules: TextRules | None = None,
        library: LibraryEncoder | None = None,
    ) -> None:
        """library: encodes text between added tokens instead of the engine."""
        self._vocab = vocab
        self._rules = rules or TextRules()
        self._library = library
        self._found_in_text: dict[bool, AddedTokens] = {}
        self.n_tokens: int = lib.llama_vocab_n_tokens(vocab)
        tokens = range(self.n_tokens)
        self.special = [bool(lib.llama_vocab_get_attr(vocab, t) & _CONTROL) for t in tokens]
        self._labels = [_piece(vocab, t) for t in tokens]
        self.pieces = [
            b"" if special else label
            for label, special in zip(self._labels, self.special, strict=True)
        ]
        self.end_tokens = frozenset(t for t in tokens if lib.llama_vocab_is_eog(vocab, t))
        self.bos: int = lib.llama_vocab_bos(vocab)
        self.eos: int = lib.llama_vocab_eos(vocab)
        self.adds_bos: bool = bool(lib.llama_vocab_get_add_bos(vocab)) and self.bos >= 0
        self._adds_eos: bool = bool(lib.llama_vocab_get_add_eos(vocab)) and self.eos >= 0

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if self._library is None:
            if self._rules and parse_special:
                text = stripped(text, self._rules.strip_after)
            added = self._added(parse_special).pattern if self._rules else None
            return self._by_engine(prepared(text, self._rules, added), add_special, parse_special)
        tokens = self.encode_parts([(text, parse_special)])
        if add_special:
            return [self.bos] * self.adds_bos + tokens + [self.eos] * self._adds_eos
        return tokens

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        cut = self._cut(parts)
        encoded = iter(self._encoded([part for part in cut if isinstance(part, str)]))
        return [
            token for part in cut for token in ([part] if isinstance(part, int) else next(encoded))
        ]

    def _cut(self, parts: Sequence[tuple[str, bool]]) -> list[str | int]:
        """Added tokens where they are meant, and each stretch of text between them in one piece,
        as the engine is to see it: it puts spaces before stretches."""
        cut: list[str | int] = []
        for text, parse_special in parts:
            meant = stripped(text, self._rules.strip_after) if parse_special else text
            for part in self._added(True).cut(meant) if parse_special else [text]:
                if isinstance(part, str) and cut and isinstance(cut[-1], str):
                    cut[-1] += part
                else:
                    cut.append(part)
        own, later = self._added(False).pattern, replace(self._rules, first_space=False)
        return [
            prepared(part, later if place else self._rules, own) if isinstance(part, str) else part
            for place, part in enumerate(cut)
        ]

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of prepared texts, control tokens in them read as text."""
        if self._library is None:
            return [self._by_engine(text, False, False) for text in texts]
        cut = [list(self._added(False).cut(text)) for text in texts]
        words = [part for parts in cut for part in parts if isinstance(part, str)]
        encoded = iter(self._library.encode(words))
        return [
            [token for part in parts
             for token in ([part] if isinstance(part, int) else next(encoded))]
            for parts in cut
        ]  # fmt: skip

    def _by_engine(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        while True:
            out = (ctypes.c_int32 * room)()
            count = lib.llama_tokenize(
                self._vocab, data, len(data), out, room, add_special, parse_special
            )
            if count >= 0:
                return list(out[:count])
            room = -count

    def _added(self, parse_special: bool) -> AddedTokens:
        """The tokens that are found in a text before the rest is cut."""
        if parse_special not in self._found_in_text:
            kinds = _ADDED if parse_special else lib.LLAMA_TOKEN_ATTR_USER_DEFINED
            ids = {
                label.decode(errors="replace"): token
                for token, label in enumerate(self._labels)
                if label and lib.llama_vocab_get_attr(self._vocab, token) & kinds
            }
            self._found_in_text[parse_special] = AddedTokens(ids)
        return self._found_in_text[parse_special]

    def label(self, token: int) -> bytes:
        return self._labels[token]

    def special_tokens(self) -> dict[str, int]:
        """Role name to id, of those the model has."""
        named = {"bos": self.bos, "eos": self.eos, "eot": lib.llama_vocab_eot(self._vocab)}
        return {name: token for name, token in named.items() if token >= 0}


def vocabulary_of_model(model: lib.llama_model_p, path: Path) -> LlamaVocabulary:
    """That of a model loaded from `path`, with the rules for texts that its file names."""
    vocab = lib.llama_model_get_vocab(model)
    return LlamaVocabulary(vocab, text_rules(model), _library(model, vocab, path))


def _library(
    model: lib.llama_model_p, vocab: lib.llama_vocab_p, path: Path
) -> LibraryEncoder | None:
    """Instead of the engine's pre-tokenizer, where that does not keep to the rules."""
    if metadata_text(model, b"tokenizer.ggml.model") != b"gpt2":
        return None
    name = metadata_text(model, b"tokenizer.ggml.pre").decode(errors="replace")

    def tokens() -> list[str]:
        texts = (lib.llama_vocab_get_text(vocab, t) for t in range(lib.llama_vocab_n_tokens(vocab)))
        return [(text or b"").decode(errors="replace") for text in texts]

    return library_encoder(name, tokens, path)


def _piece(vocab: lib.llama_vocab_p, token: int) -> bytes:
    room = 64
    while True:
        out = ctypes.create_string_buffer(room)
        count: int = lib.llama_token_to_piece(vocab, token, out, room, 0, True)
        if count >= 0:
            return out.raw[:count]
        room = -count
