"""How a user wants a model's weights: as stored, or quantised while loading."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wants:
    """bits: 8 or 4 (--load-in-8bit, --load-in-4bit); None: as the checkpoint has them."""

    bits: int | None = None

    def __post_init__(self) -> None:
        assert self.bits in (None, 4, 8), self.bits

    @property
    def file_type(self) -> str | None:
        """What llama-quantize would call the file; None: as stored."""
        return {8: "Q8_0", 4: "Q4_K_M"}.get(self.bits or 0)
