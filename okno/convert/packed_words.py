"""Small numbers in 32-bit words: packing of GPTQ and AWQ undone with numpy, in pieces of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Small = npt.NDArray[np.uint8]

# AWQ (awq/quantize/packing, gemm): which of 8 neighbouring columns the n-th 4 bits of a word hold.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def as_words(stored: npt.NDArray[Any]) -> Words:
    """`stored` (int32 or uint32, any shape) as unsigned words."""
    return stored.view(np.uint32)


def unpack(words: Words, bits: int) -> Small:
    """(..., n) words to (..., n * 32 / bits) numbers: a stream of bits, the least first, as GPTQ
    packs them (3-bit numbers may lie across two words)."""
    if bits == 3:
        return _unpack_across(words, bits)
    stored = np.ascontiguousarray(words).astype("<u4", copy=False).view(np.uint8)
    if bits == 8:
        return stored
    per_byte = 8 // bits
    found = np.empty((*stored.shape[:-1], stored.shape[-1] * per_byte), np.uint8)
    mask = np.uint8(2**bits - 1)
    for n in range(per_byte):
        np.right_shift(stored, np.uint8(bits * n), out=found[..., n::per_byte])
        if n < per_byte - 1:
            found[..., n::per_byte] &= mask
    return found


def unpack_awq(words: Words) -> Small:
    """(..., n) words to (..., 8 n) numbers of 4 bits in the order of AWQ's gemm layout."""
    plain = unpack(words, 4).reshape(*words.shape, 8)
    found = np.empty_like(plain)
    found[..., AWQ_ORDER] = plain
    return found.reshape(*words.shape[:-1], words.shape[-1] * 8)


def plus_one(words: Words, bits: int) -> Small:
    """Zero points of GPTQ's first format, which stores each minus one.

    The subtraction went through whole words, with borrowing, so the addition does as well
    (gptqmodel/utils/model.py, convert_gptq_v1_to_v2_format); 3-bit ones have no zero among them.
    """
    if bits == 3:
        return (unpack(words, 3) + np.uint8(1)) & np.uint8(7)
    ones = np.uint32(sum(1 << shift for shift in range(0, 32, bits)))
    return unpack(words + ones, bits)


def _unpack_across(words: Words, bits: int) -> Small:
    count = words.shape[-1] * 32 // bits
    found = np.empty((*words.shape[:-1], count), np.uint8)
    for n in range(32):
        word, shift = divmod(n * bits, 32)
        part = words[..., word::bits] >> np.uint32(shift)
        if shift + bits > 32:
            part = part | (words[..., word + 1 :: bits] << np.uint32(32 - shift))
        found[..., n::32] = part & np.uint32(2**bits - 1)
    return found
