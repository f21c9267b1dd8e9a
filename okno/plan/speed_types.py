"""Weight types: bits per weight, and which measured type stands for one that was not."""

from __future__ import annotations

from functools import lru_cache

# Bits per weight as stored: bytes of a block x 8 / its values (ggml-common.h).
BITS: dict[str, float] = {
    "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q5_1": 6,
    "Q5_0": 5.5, "Q4_K": 4.5, "Q4_1": 5, "Q4_0": 4.5, "IQ4_NL": 4.5, "IQ4_XS": 4.25,
    "MXFP4": 4.25, "NVFP4": 4.5, "Q3_K": 3.4375, "IQ3_S": 3.4375, "IQ3_XXS": 3.0625,
    "Q2_K": 2.625, "IQ2_S": 2.5625, "IQ2_XS": 2.3125, "IQ2_XXS": 2.0625, "IQ1_M": 1.75,
    "IQ1_S": 1.5625, "TQ2_0": 2.0625, "TQ1_0": 1.6875, "Q1_0": 1.125,
}  # fmt: skip
UNKNOWN_BITS = 8.0
# Kernels built alike, so that one tells more of the other than equal bits do.
ALIKE = {"Q5_0": "Q8_0", "Q5_1": "Q8_0", "Q4_1": "Q8_0", "Q3_K": "Q6_K", "IQ4_XS": "Q6_K",
         "MXFP4": "IQ4_NL", "NVFP4": "IQ4_NL", "Q2_K": "Q4_K"}  # fmt: skip


@lru_cache(maxsize=1024)
def nearest_type(type: str, measured: tuple[str, ...]) -> tuple[str, float]:
    """(measured type, factor): costs of `type` are those of the measured type times factor.

    Itself when measured; else one with kernels built alike; else the nearest in bits. A finer
    type costs in proportion to its bytes; a coarser one never less than the measured, for below
    it unpacking costs more than reading.
    """
    if type in measured:
        return type, 1.0
    alike = ALIKE.get(type)
    if alike in measured:
        return alike, 1.0
    bits = BITS.get(type, UNKNOWN_BITS)
    nearest = min(measured, key=lambda name: abs(BITS.get(name, UNKNOWN_BITS) - bits))
    return nearest, max(1.0, bits / BITS.get(nearest, UNKNOWN_BITS))


def bits_of(type: str) -> float:
    """Bits a weight of `type` takes as stored."""
    return BITS.get(type, UNKNOWN_BITS)
