"""Reads SentencePiece's tokenizer.model. Never trusts the file.

Format: google/sentencepiece, src/sentencepiece_model.proto (protocol buffers). An own reader of the
dozen fields that matter, because the file may come from anywhere: the native library parses it
inside our process, and a damaged file must end in a message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from okno.convert.token_list import MAX_TOKENS, Token, TokenType
from okno.core.errors import ModelUnusable

UNIGRAM, BPE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Wire = tuple[int, int, int, int]  # field number, wire type, value or start, end


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """pieces: by id. kind: UNIGRAM or BPE (TrainerSpec.ModelType). ids: role to id, those that
    exist. charsmap: the compiled normalisation, empty for none. The flags are NormalizerSpec's."""

    pieces: tuple[Token, ...]
    kind: int = UNIGRAM
    byte_fallback: bool = False
    space_as_suffix: bool = False
    ids: dict[str, int] = field(default_factory=dict)
    charsmap: bytes = b""
    add_space_prefix: bool = True
    remove_extra_spaces: bool = True
    escape_spaces: bool = True


def parse_sentencepiece(data: bytes, where: str) -> SentencePieceModel:
    """Raises ModelUnusable for anything that is not sound."""
    try:
        model = _model(data)
    except (ValueError, IndexError, struct.error) as error:
        raise ModelUnusable(
            f"{where} is not a sound SentencePiece model ({error}). Was the download cut short, "
            "or is it a file of another kind under this name? Get it again."
        ) from None
    if not model.pieces:
        raise ModelUnusable(f"{where} holds no tokens. Is it another file? Get it again.")
    return model


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[Token] = []
    model = SentencePieceModel(())
    for number, wire, start, end in _fields(data, 0, len(data)):
        if number == 1 and wire == BYTES:
            pieces.append(_piece(data, start, end))
            if len(pieces) > MAX_TOKENS:
                raise ValueError(f"more than {MAX_TOKENS} tokens")
        elif number == 2 and wire == BYTES:
            model = _trainer(model, data, start, end)
        elif number == 3 and wire == BYTES:
            model = _normalizer(model, data, start, end)
    ids = {role: id_ for role, id_ in model.ids.items() if 0 <= id_ < len(pieces)}
    return replace(model, pieces=tuple(pieces), ids=ids)


def _piece(data: bytes, start: int, end: int) -> Token:
    text, score, kind = "", 0.0, TokenType.NORMAL
    for number, wire, value, stop in _fields(data, start, end):
        if number == 1 and wire == BYTES:
            text = data[value:stop].decode()
        elif number == 2 and wire == FIXED32:
            score = struct.unpack_from("<f", data, value)[0]
        elif number == 3 and wire == VARINT:
            kind = TokenType(value)
    if score != score:
        raise ValueError(f"the token {text[:40]!r} has no number for its score")
    return Token(text, kind, score)


def _trainer(model: SentencePieceModel, data: bytes, start: int, end: int) -> SentencePieceModel:
    """TrainerSpec. The ids are of type int32: -1 stands for none."""
    said = {number: value for number, wire, value, _ in _fields(data, start, end) if wire == VARINT}
    roles = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
    return replace(
        model,
        kind=said.get(3, UNIGRAM),
        space_as_suffix=bool(said.get(24, 0)),
        byte_fallback=bool(said.get(35, 0)),
        ids={role: said.get(number, usual) for role, (number, usual) in roles.items()},
    )


def _normalizer(model: SentencePieceModel, data: bytes, start: int, end: int) -> SentencePieceModel:
    charsmap, said = b"", {}
    for number, wire, value, stop in _fields(data, start, end):
        if number == 2 and wire == BYTES:
            charsmap = data[value:stop]
        elif wire == VARINT:
            said[number] = bool(value)
    return replace(
        model,
        charsmap=charsmap,
        add_space_prefix=said.get(3, True),
        remove_extra_spaces=said.get(4, True),
        escape_spaces=said.get(5, True),
    )


def _fields(data: bytes, at: int, end: int) -> Iterator[Wire]:
    """The fields of the message in data[at:end]. Raises ValueError where it does not hold."""
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        start, stop = at, at
        if wire == VARINT:
            start, at = _varint(data, at, end)
        elif wire == BYTES:
            count, start = _varint(data, at, end)
            at = stop = start + count
        elif wire in (FIXED32, FIXED64):
            at = stop = start + (4 if wire == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at > end:
            raise ValueError(f"field {number} ends beyond byte {end}")
        yield number, wire, start, stop


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at `at` and where the next thing begins."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"a number is cut at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number at byte {at} is too long")
