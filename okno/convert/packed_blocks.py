"""Packed numbers as blocks of ggml, without rounding any of them.

Layouts: llama.cpp, ggml/src/ggml-common.h (block_q4_0, block_q4_1, block_q8_0) and
dequantize_row_q4_0, _q4_1, _q8_0 in ggml/src/ggml-quants.c. A block is 32 columns of one row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from okno.convert.packed_words import Small

BLOCK = 32
Halves = npt.NDArray[np.float16]
Bytes = npt.NDArray[np.uint8]


def q4_0(values: Small, scales: Halves) -> Bytes:
    """Rows of Q4_0: scale * (value - 8). values: (rows, columns) of 0 to 15; scales: (rows,
    blocks). Gives (rows, 18 * blocks) bytes: a scale, then the first 16 values in the low halves of
    16 bytes and the others in the high ones."""
    rows, blocks = scales.shape
    found = np.empty((rows, blocks, 18), np.uint8)
    _halves(found, 0, scales)
    _nibbles(found[:, :, 2:], values)
    return found.reshape(rows, -1)


def q4_1(values: Small, scales: Halves, offsets: Halves) -> Bytes:
    """Rows of Q4_1: scale * value + offset. (rows, 20 * blocks) bytes."""
    rows, blocks = scales.shape
    found = np.empty((rows, blocks, 20), np.uint8)
    _halves(found, 0, scales)
    _halves(found, 2, offsets)
    _nibbles(found[:, :, 4:], values)
    return found.reshape(rows, -1)


def q8_0(values: npt.NDArray[np.int8], scales: Halves) -> Bytes:
    """Rows of Q8_0: scale * value, values of -128 to 127. (rows, 34 * blocks) bytes."""
    rows, blocks = scales.shape
    found = np.empty((rows, blocks, 34), np.uint8)
    _halves(found, 0, scales)
    found[:, :, 2:] = values.view(np.uint8).reshape(rows, blocks, BLOCK)
    return found.reshape(rows, -1)


def _halves(blocks: Bytes, at: int, numbers: Halves) -> None:
    """Put a 16-bit number into each block, least byte first."""
    stored = np.ascontiguousarray(numbers).astype("<f2", copy=False).view(np.uint8)
    blocks[:, :, at : at + 2] = stored.reshape(*numbers.shape, 2)


def _nibbles(target: Bytes, values: Small) -> None:
    rows, blocks = target.shape[:2]
    parted = values.reshape(rows, blocks, 2, BLOCK // 2)
    np.left_shift(parted[:, :, 1], np.uint8(4), out=target)
    np.bitwise_or(target, parted[:, :, 0], out=target)
