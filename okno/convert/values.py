"""Rows of a checkpoint as the engine stores them: changed where the family says so, in its type."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from okno.convert.layout import Change
from okno.convert.quantise import quantise_rows

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
AS_STORED = {"F32": "F32", "F16": "F16", "BF16": "BF16"}


def encoded(rows: Array, dtype: str, ggml_type: str) -> Bytes:
    """(rows, columns) of a safetensors `dtype` as the bytes of `ggml_type`, flat. Nothing is done
    to what is stored in that type already."""
    if AS_STORED.get(dtype) == ggml_type:
        return np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    values = as_floats(rows, dtype)
    if ggml_type == "F32":
        return np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    return quantise_rows(values, ggml_type).reshape(-1)


def as_floats(rows: Array, dtype: str) -> npt.NDArray[np.float32]:
    """The values in 32 bits. BF16 comes as its bits: the upper half of a float."""
    if dtype == "BF16":
        bits = np.empty(rows.shape, np.uint32)
        np.left_shift(rows, np.uint32(16), out=bits, dtype=np.uint32, casting="unsafe")
        return bits.view(np.float32)
    return rows.astype(np.float32, copy=False)


def changed(rows: Array, dtype: str, change: Change, head_dim: int, shift: float) -> Array:
    """`rows` (of whole heads for `pairs`) after the change; `shift` gives float32."""
    if change == "pairs":
        return in_pairs(rows, head_dim)
    if change == "shift":
        return as_floats(rows, dtype) + np.float32(shift)
    return rows


def in_pairs(rows: Array, head_dim: int) -> Array:
    """The rows of each head from halves (0, 1, ... in front, then their partners) to pairs. One row
    alone is a bias, whose values are the rows.

    llama.cpp turns neighbouring values, transformers the halves of a head (conversion/llama.py,
    permute).
    """
    if rows.shape[0] == 1:
        return in_pairs(rows.reshape(-1, 1), head_dim).reshape(1, -1)
    count, columns = rows.shape
    heads = rows.reshape(count // head_dim, 2, head_dim // 2, columns)
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(count, columns)
