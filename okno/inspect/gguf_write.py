"""Writes a GGUF file that holds its header only: the data is a hole of the right length."""

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
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64 = 4, 5, 6, 7, 8, 9, 10, 11
CODES = {UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?", UINT64: "Q", INT64: "q"}


def write_hollow_gguf(
    path: Path, values: Mapping[str, Value], tensors: Sequence[TensorInfo]
) -> None:
    """Write `path` with these values and tensors; of their data no byte is stored.

    Takes the disk space of the header, and appears under its name only when it is whole.
    """
    kept = {key: value for key, value in values.items() if key != "general.alignment"}
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(kept)))
    for key, value in kept.items():
        header += _text(key) + _value(value)
    offset = 0
    for tensor in tensors:
        header += _tensor(tensor, offset)
        offset += _padded(tensor.n_bytes)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(header)
            file.truncate(_padded(len(header)) + offset)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, tuple):
        kind = _kind_of(value)
        packed = struct.pack(f"<{len(value)}{CODES[kind]}", *value)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + packed
    kind = _kind_of((value,))
    return struct.pack("<I" + CODES[kind], kind, value)


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


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
