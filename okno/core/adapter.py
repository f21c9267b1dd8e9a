"""A LoRA adapter as it is asked for: what is added to a model's weights while it computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Adapter:
    """path: of a GGUF adapter, or a folder in PEFT's format. scale: how much of it is added; 1 is
    as it was trained, 0 is nothing. name: as it is shown."""

    name: str
    path: str
    scale: float = 1.0
