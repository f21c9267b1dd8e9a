"""Weights that are no numbers: found while they are read.

One NaN or infinity makes every answer noise, and no quantised type holds them; llama-quantize
refuses them too (ggml-quants.c, ggml_validate_row_data).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from okno.convert.values import as_floats
from okno.core.errors import ModelUnusable

# By safetensors' type: the bits as signed and as unsigned integers, and +infinity among them.
BITS = {
    "F16": ("<i2", "<u2", 0x7C00), "BF16": ("<i2", "<u2", 0x7F80),
    "F32": ("<i4", "<u4", 0x7F80_0000), "F64": ("<i8", "<u8", 0x7FF0_0000_0000_0000),
}  # fmt: skip


def are_finite(values: npt.NDArray[np.generic], dtype: str) -> bool:
    """Whether all `values` of a safetensors `dtype` (BF16 as its bits) are numbers.

    Infinity has the largest bits of all positive numbers, and NaN is above; as unsigned integers
    the same holds for the negative ones. So two maxima decide, without a copy.
    """
    if dtype not in BITS or not values.size:
        return True
    signed, unsigned, infinity = BITS[dtype]
    sign = 1 << (8 * values.itemsize - 1)
    bits = values.reshape(-1).view(signed)
    return int(bits.max()) < infinity and int(bits.view(unsigned).max()) < sign + infinity


def check_finite(values: npt.NDArray[np.generic], dtype: str, name: str, where: Path) -> None:
    """Raises ModelUnusable for a NaN or an infinity in the tensor `name` of `where`."""
    if are_finite(values, dtype):
        return
    wrong = ~np.isfinite(values if dtype == "F64" else as_floats(values, dtype))
    raise ModelUnusable(
        f"{where} has {name!r} with values that are no numbers (NaN or infinity): "
        f"{int(wrong.sum()):,} of {wrong.size:,} that were looked at. With them the model would "
        "answer nothing but noise, so nothing was kept. The file is damaged, or its training "
        "failed: get it again, or from another publisher."
    )
