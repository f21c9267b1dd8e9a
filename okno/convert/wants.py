"""How a user wants a model's weights: as stored, or quantised while loading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FourBit = Literal["Q4_K_M", "Q4_0"]


@dataclass(frozen=True, slots=True)
class Wants:
    """bits: 8 or 4 (--load-in-8bit, --load-in-4bit); None: as the checkpoint has them. four_bit:
    what 4 bits are stored as; Q4_K_M is the more exact one (advisor/four_bit.py chooses)."""

    bits: int | None = None
    four_bit: FourBit = "Q4_K_M"

    def __post_init__(self) -> None:
        assert self.bits in (None, 4, 8), self.bits

    @property
    def file_type(self) -> str | None:
        """What llama-quantize would call the file; None: as stored."""
        return {8: "Q8_0", 4: self.four_bit}.get(self.bits or 0)
