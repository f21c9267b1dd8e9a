"""What a vocabulary does to a text before it is cut into tokens, where llama.cpp does not do it.

okno's converter writes these rules into a GGUF file (okno/convert/space_rules.py, byte_level.py) as
`tokenizer.okno.nfc` and `tokenizer.okno.first_space`; other files have none.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import llama_cpp.llama_cpp as lib

NFC, FIRST_SPACE = b"tokenizer.okno.nfc", b"tokenizer.okno.first_space"


@dataclass(frozen=True, slots=True)
class TextRules:
    """nfc: composed characters, as in the training text (Qwen). first_space: a space before the
    text, but not after special tokens in it, and none where one is there (Mistral since v0.3)."""

    nfc: bool = False
    first_space: bool = False

    def __bool__(self) -> bool:
        return self.nfc or self.first_space


def text_rules(model: lib.llama_model_p) -> TextRules:
    """Those that the file of a loaded model names."""
    return TextRules(_flag(model, NFC), _flag(model, FIRST_SPACE))


def _flag(model: lib.llama_model_p, key: bytes) -> bool:
    out = ctypes.create_string_buffer(8)
    lib.llama_model_meta_val_str(model, key, out, len(out))
    return out.value == b"true"


def added_pattern(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Finds tokens that are matched in the text itself, the longest first; None without any."""
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return (
        re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
    )


def prepared(text: str, rules: TextRules, added: re.Pattern[str] | None) -> str:
    """`text` as the engine is to see it. Added tokens in it stay as they are: neither do they
    compose with a mark after them, nor does a text that begins with one get a space."""
    if rules.nfc and not unicodedata.is_normalized("NFC", text):
        parts = added.split(text) if added else [text]
        text = "".join(
            part if place % 2 else unicodedata.normalize("NFC", part)
            for place, part in enumerate(parts)
        )
    if rules.first_space and text and text[0] not in " ▁" and not (added and added.match(text)):
        return " " + text
    return text
