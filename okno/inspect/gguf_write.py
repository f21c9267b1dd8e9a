"""Writes the header of a GGUF file, and files that hold nothing else: their data is a hole of the
right length.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from okno.core.header import TensorInfo
from okno.inspect.gguf import MAGIC, Value
from okno.inspect.gguf_types import BY_NAME

VERSION = 3
ALIGNMENT = 32
UINT8, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64 = 0, 4, 5, 6, 7, 8, 9, 10, 11
CODES = {UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?", UINT64: "Q", INT64: "q"}


# A value, or what only vocabularies hold: texts, and bytes.
Field = Value | tuple[str, ...] | bytes


def write_hollow_gguf(
    path: Path, values: Mapping[str, Value], tensors: Sequence[TensorInfo]
) -> None:
    """Write `path` with these values and tensors; of their data no byte is stored.

    Takes the disk space of the header, and appears under its name only when it is whole.
    """
    header = gguf_header(values, tensors)
    data_bytes = sum(padded(tensor.n_bytes) for tensor in tensors)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + data_bytes)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def gguf_header(
    values: Mapping[str, Field], tensors: Sequence[TensorInfo], carried: Sequence[bytes] = ()
) -> bytes:
    """Everything before the data, padded. Its length depends on names, dimensions and values, not
    on the tensors' types. The data of each tensor begins where that of the one before it ends,
    `padded`. carried: further pairs of key and value, as another file has them."""
    kept = {key: value for key, value in values.items() if key != "general.alignment"}
    n_pairs = len(carried) + len(kept)
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), n_pairs))
    header += b"".join(carried)
    for key, value in kept.items():
        header += _text(key) + _value(value)
    offset = 0
    for tensor in tensors:
        header += _tensor(tensor, offset)
        offset += padded(tensor.n_bytes)
    return bytes(header) + bytes(padded(len(header)) - len(header))


def padded(size: int) -> int:
    """`size` up to the next place where data may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _value(value: Field) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, bytes):
        return struct.pack("<IIQ", ARRAY, UINT8, len(value)) + value
    if isinstance(value, tuple):
        return struct.pack("<I", ARRAY) + _array(value)
    kind = _kind_of((value,))
    return struct.pack("<I" + CODES[kind], kind, value)


def _array(values: tuple[str, ...] | tuple[int | float | bool, ...]) -> bytes:
    """Whole numbers in INT32 where they fit, as llama.cpp demands of token types."""
    texts = [value for value in values if isinstance(value, str)]
    if texts or not values:  # of arrays only merges may be empty
        return struct.pack("<IQ", STRING, len(texts)) + b"".join(map(_text, texts))
    numbers = [value for value in values if not isinstance(value, str)]
    kind = _kind_of(numbers)
    if kind == UINT32 and max(numbers, default=0) < 2**31:
        kind = INT32
    return struct.pack(f"<IQ{len(numbers)}{CODES[kind]}", kind, len(numbers), *numbers)


def _kind_of(values: Sequence[int | float | bool]) -> int:
    """The narrowest type for all of `values`; the engine takes numbers of 32 bits where it can."""
    if values and all(isinstance(value, bool) for value in values):
        return BOOL
    if any(isinstance(value, float) for value in values):
        return FLOAT32
    least, most = min(values, default=0), max(values, default=0)
    if least < 0:
        return INT32 if least >= -(2**31) and most < 2**31 else INT64
    return UINT32 if most < 2**32 else UINT64


def _tensor(tensor: TensorInfo, offset: int) -> bytes:
    n = len(tensor.dimensions)
    sizes = struct.pack(f"<I{n}Q", n, *tensor.dimensions)
    return _text(tensor.name) + sizes + struct.pack("<IQ", BY_NAME[tensor.type].number, offset)


def _text(text: str) -> bytes:
    data = text.encode(errors="replace")
    return struct.pack("<Q", len(data)) + data
