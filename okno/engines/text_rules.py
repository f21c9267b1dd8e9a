"""What a vocabulary does to a text before it is cut into tokens, where llama.cpp does not do it.

okno's converter writes these rules into a GGUF file (okno/convert/vocabulary.py) as
`tokenizer.okno.nfc`, `.first_space` and `.strip_after` (a JSON list); other files have none.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from dataclasses import dataclass

import llama_cpp.llama_cpp as lib
import msgspec

from okno.engines.added_tokens import added_pattern

NFC, FIRST_SPACE = b"tokenizer.okno.nfc", b"tokenizer.okno.first_space"
STRIP_AFTER = b"tokenizer.okno.strip_after"

SPACES = r"[^\S\x1c-\x1f]+"  # as Rust's regex has it; Python counts four control characters, too


@dataclass(frozen=True, slots=True)
class TextRules:
    """nfc: composed characters, as in the training text (Qwen). first_space: a space before the
    text, but not after special tokens in it, and none where one is there (Mistral since v0.3).
    strip_after: tokens that swallow the white space after them (Phi-3)."""

    nfc: bool = False
    first_space: bool = False
    strip_after: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.nfc or self.first_space or bool(self.strip_after)


def text_rules(model: lib.llama_model_p) -> TextRules:
    """Those that the file of a loaded model names."""
    nfc, first_space = (metadata_text(model, key) == b"true" for key in (NFC, FIRST_SPACE))
    stripping = metadata_text(model, STRIP_AFTER)
    try:
        strip_after = msgspec.json.decode(stripping or b"[]", type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeDecodeError):
        strip_after = ()  # not written by okno
    return TextRules(nfc, first_space, tuple(filter(None, strip_after)))


def metadata_text(model: lib.llama_model_p, key: bytes) -> bytes:
    """The text of a metadata value; empty for none."""
    out = ctypes.create_string_buffer(256)
    length = lib.llama_model_meta_val_str(model, key, out, len(out))
    if length >= len(out):
        out = ctypes.create_string_buffer(length + 1)
        lib.llama_model_meta_val_str(model, key, out, len(out))
    return out.value


def stripped(text: str, tokens: tuple[str, ...]) -> str:
    """`text` without the white space after each of `tokens`."""
    found = added_pattern(tokens)
    return re.sub(rf"{found.pattern}{SPACES}", r"\1", text) if found else text


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
