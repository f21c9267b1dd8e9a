"""How a user wants a model's weights: as stored, or quantised while loading."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wants:
    """bits: 8 or 4 (--load-in-8bit, --load-in-4bit); None: as the checkpoint has them."""

    bits: int | None = None

    def __post_init__(self) -> None:
        assert self.bits in (None, 4, 8), self.bits
