"""The model's vocabulary through llama.cpp."""

from __future__ import annotations

import ctypes
import re

import llama_cpp.llama_cpp as lib

from okno.engines.text_rules import TextRules, added_pattern, prepared, stripped, text_rules

_CONTROL = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
_ADDED = _CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED


class LlamaVocabulary:
    """engines.engine.Vocabulary over a llama_vocab pointer. Thread-safe: reads only."""

    def __init__(self, vocab: lib.llama_vocab_p, rules: TextRules | None = None) -> None:
        self._vocab = vocab
        self._rules = rules or TextRules()
        self._patterns: dict[bool, re.Pattern[str] | None] = {}
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

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if self._rules:
            if parse_special:
                text = stripped(text, self._rules.strip_after)
            text = prepared(text, self._rules, self._added(parse_special))
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

    def _added(self, parse_special: bool) -> re.Pattern[str] | None:
        """The tokens that the engine finds in a text before it cuts the rest."""
        if parse_special not in self._patterns:
            kinds = _ADDED if parse_special else lib.LLAMA_TOKEN_ATTR_USER_DEFINED
            texts = (
                label.decode(errors="replace")
                for token, label in enumerate(self._labels)
                if lib.llama_vocab_get_attr(self._vocab, token) & kinds
            )
            self._patterns[parse_special] = added_pattern(texts)
        return self._patterns[parse_special]

    def label(self, token: int) -> bytes:
        return self._labels[token]

    def special_tokens(self) -> dict[str, int]:
        """Role name to id, of those the model has."""
        named = {"bos": self.bos, "eos": self.eos, "eot": lib.llama_vocab_eot(self._vocab)}
        return {name: token for name, token in named.items() if token >= 0}


def vocabulary_of_model(model: lib.llama_model_p) -> LlamaVocabulary:
    """The vocabulary of a loaded model, with the rules for texts that its file names."""
    return LlamaVocabulary(lib.llama_model_get_vocab(model), text_rules(model))


def _piece(vocab: lib.llama_vocab_p, token: int) -> bytes:
    room = 64
    while True:
        out = ctypes.create_string_buffer(room)
        count: int = lib.llama_token_to_piece(vocab, token, out, room, 0, True)
        if count >= 0:
            return out.raw[:count]
        room = -count
