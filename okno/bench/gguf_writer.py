"""Write a GGUF file with nothing but Python: for the block models of `okno calibrate`, which an
end user runs without the `gguf` package.

Format: github.com/ggml-org/ggml, docs/gguf.md, version 3, little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ALIGNMENT = 32
MAGIC, VERSION = b"GGUF", 3
UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
INT32 = 5

Scalar = bool | int | float | str
Value = Scalar | Sequence[str] | Sequence[int]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor to write. dimensions: ggml order, the input width first. ggml_type: its number in
    ggml.h. content: gives its n_bytes in pieces."""

    name: str
    dimensions: tuple[int, ...]
    ggml_type: int
    n_bytes: int
    content: Callable[[], Iterator[bytes | memoryview]]


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Sequence[StoredTensor]) -> None:
    """Write a file with `metadata` (in order) and `tensors`. Whole numbers become uint32 (in lists
    int32), floats float32. Memory stays near the size of a piece."""
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
        for key, value in metadata.items():
            file.write(_string(key) + _value(value))
        offset = 0
        for tensor in tensors:
            file.write(_tensor_info(tensor, offset))
            offset += _aligned(tensor.n_bytes)
        _pad(file)
        for tensor in tensors:
            _write_content(file, tensor)


def _tensor_info(tensor: StoredTensor, offset: int) -> bytes:
    sizes = struct.pack(f"<I{len(tensor.dimensions)}Q", len(tensor.dimensions), *tensor.dimensions)
    return _string(tensor.name) + sizes + struct.pack("<IQ", tensor.ggml_type, offset)


def _write_content(file: BinaryIO, tensor: StoredTensor) -> None:
    written = 0
    for piece in tensor.content():
        written += file.write(piece)
    if written != tensor.n_bytes:
        raise ValueError(f"{tensor.name} has {written} bytes, {tensor.n_bytes} were announced")
    _pad(file)


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    return struct.pack("<I", ARRAY) + _array(value)


def _array(values: Sequence[str] | Sequence[int]) -> bytes:
    texts = [value for value in values if isinstance(value, str)]
    if texts:
        return struct.pack("<IQ", STRING, len(texts)) + b"".join(map(_string, texts))
    return struct.pack(f"<IQ{len(values)}i", INT32, len(values), *map(int, values))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _pad(file: BinaryIO) -> None:
    at = file.seek(0, os.SEEK_CUR)
    file.write(bytes(_aligned(at) - at))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
