"""Rows of floats to any ggml type and back, by ggml's own code. The GIL is released meanwhile."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from okno.inspect.gguf_types import BY_NAME

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
FROM_ROWS = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """ggml.h, struct ggml_type_traits."""

    _fields_ = (
        ("type_name", ctypes.c_char_p), ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64), ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool), ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )  # fmt: skip


def row_bytes(ggml_type: str, columns: int) -> int:
    """Of a row of so many values, a whole number of blocks (ggml_row_size)."""
    kind = BY_NAME[ggml_type]
    assert columns % kind.block_values == 0, (ggml_type, columns)
    return columns // kind.block_values * kind.block_bytes


def quantise_rows(values: Floats, ggml_type: str, out: Bytes | None = None) -> Bytes:
    """(rows, columns) values as (rows, row_bytes) of `ggml_type`, into `out` if given, which must
    be contiguous. F32, F16 and BF16 work as well; without an importance matrix."""
    rows, columns = values.shape
    if out is None:
        out = np.empty((rows, row_bytes(ggml_type, columns)), np.uint8)
    assert out.flags.c_contiguous, "rows with gaps between them"
    assert out.nbytes == rows * row_bytes(ggml_type, columns), (out.nbytes, rows, columns)
    source = np.ascontiguousarray(values, np.float32)
    _ggml().ggml_quantize_chunk(
        BY_NAME[ggml_type].number, source.ctypes.data, out.ctypes.data, 0, rows, columns, None
    )
    return out


def dequantise_rows(stored: Bytes, ggml_type: str, columns: int) -> Floats:
    """(rows, row_bytes) of `ggml_type` as (rows, columns) values, as the engine understands them
    (to_float of ggml_type_traits)."""
    source = np.ascontiguousarray(stored)
    rows = source.shape[0]
    assert source.nbytes == rows * row_bytes(ggml_type, columns), (source.shape, columns)
    if ggml_type == "F32":
        return source.view(np.float32).reshape(rows, columns).copy()
    found = np.empty((rows, columns), np.float32)
    _to_float(ggml_type)(source.ctypes.data, found.ctypes.data, rows * columns)
    return found


@lru_cache
def _to_float(ggml_type: str) -> Any:
    address = _ggml().ggml_get_type_traits(BY_NAME[ggml_type].number)
    return FROM_ROWS(_Traits.from_address(address).to_float)


@lru_cache
def _ggml() -> Any:
    """The ggml library that comes with llama-cpp-python, with its functions declared."""
    from llama_cpp import _ggml

    library = _ggml.libggml
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_get_type_traits.restype = ctypes.c_void_p
    return library
