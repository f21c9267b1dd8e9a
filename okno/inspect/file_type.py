"""The number format of a GGUF file's weights, read from its header. Never trusts the file: every
length is checked against what is left, and anything odd means None (the worker says what is wrong).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

KEY = b"general.file_type"
MAX_PAIRS = 100_000
MAX_KEY_BYTES = 65_535
MAX_STRINGS = 4_000_000  # in all arrays together; the largest vocabularies have 300,000
UINT32, STRING, ARRAY = 4, 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# enum llama_ftype in llama.cpp's include/llama.h, LLAMA_FTYPE_ without MOSTLY_.
NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileType:
    """A number format of weights; bits: of one weight, without the scales of its block."""

    name: str

    @property
    def bits(self) -> int:
        found = re.search(r"\d+", self.name)
        assert found is not None  # every one of NAMES has its width
        return int(found.group())


def file_type(path: Path) -> FileType | None:
    """What `path` says of its weights; None when it says nothing, or is no sound GGUF file."""
    try:
        with path.open("rb") as file:
            found = _Header(file, path.stat().st_size).file_type()
    except (OSError, _Unsound):
        return None
    return FileType(NAMES[found]) if found in NAMES else None


class _Unsound(Exception):
    """The header is not what a GGUF header is."""


class _Header:
    """The key-value pairs of a GGUF header, walked once."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._left_bytes = size_bytes
        self._left_strings = MAX_STRINGS

    def file_type(self) -> int | None:
        magic = self._bytes(4)
        version, _tensors, pairs = self._unpack("<IQQ")
        if magic != b"GGUF" or version not in (2, 3) or pairs > MAX_PAIRS:
            raise _Unsound
        for _ in range(pairs):
            key = self._bytes(self._length())
            (kind,) = self._unpack("<I")
            if key == KEY and kind == UINT32:
                return self._unpack("<I")[0]
            self._skip_value(kind)
        return None

    def _skip_value(self, kind: int) -> None:
        if kind == STRING:
            self._skip(self._length())
        elif kind == ARRAY:
            self._skip_array()
        else:
            self._skip(_size_bytes(kind))

    def _skip_array(self) -> None:
        kind, count = self._unpack("<IQ")
        if kind != STRING:
            self._skip(count * _size_bytes(kind))
            return
        self._left_strings -= count
        if self._left_strings < 0:
            raise _Unsound
        for _ in range(count):
            self._skip(self._length())

    def _length(self) -> int:
        return self._unpack("<Q")[0]

    def _unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, count: int) -> bytes:
        if count > MAX_KEY_BYTES:
            raise _Unsound
        self._take(count)
        data = self._file.read(count)
        if len(data) != count:
            raise _Unsound
        return data

    def _skip(self, count: int) -> None:
        self._take(count)
        self._file.seek(count, 1)

    def _take(self, count: int) -> None:
        if count > self._left_bytes:
            raise _Unsound
        self._left_bytes -= count


def _size_bytes(kind: int) -> int:
    """The size of one value of a fixed-size kind (an array in an array has none)."""
    if kind not in SIZES:
        raise _Unsound
    return SIZES[kind]
