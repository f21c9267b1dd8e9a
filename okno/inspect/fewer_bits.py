"""Which weights are quantised when a user asks for 8 or 4 bits (--load-in-8bit, --load-in-4bit)."""

from __future__ import annotations

from typing import TypeGuard

UNQUANTISED = ("F32", "F16", "BF16")
# 4 bits made of these are as good as 4 bits made of 16: 8 bits lose a thirteenth of what 4 lose, so
# the error grows by 0.3 % (tests/convert/test_requantise.py measures it).
EIGHT_BITS = ("Q8_0", "GPTQ-8bit")


def is_quantised_to(stored: str | None, file_type: str | None) -> TypeGuard[str]:
    """Whether weights `stored` so become `file_type` (Q8_0, Q4_K_M, Q4_0) when that is asked for;
    the others stay, because they would get worse or larger. None: nothing is asked for, or known.
    """
    if file_type is None:
        return False
    return stored in UNQUANTISED or (stored in EIGHT_BITS and file_type != "Q8_0")
