"""Which packed layers (GPTQ, AWQ) make a tensor, in which type, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from okno.convert.checkpoint import Checkpoint
from okno.convert.layout import Target
from okno.convert.work import Job
from okno.core.errors import ModelUnusable


@dataclass(frozen=True, slots=True, eq=False)
class PackedTarget:
    """ggml_type: of all its layers."""

    ggml_type: str


def packed_targets(checkpoint: Checkpoint, targets: tuple[Target, ...]) -> dict[str, PackedTarget]:
    """Those of `targets` that are packed, by name. Raises ModelUnusable for layers that do not fit
    together."""
    if any(piece.is_packed for target in targets for piece in target.pieces):
        raise ModelUnusable(f"{checkpoint.folder} has packed layers, which are not wired yet.")
    return {}


def packed_jobs(
    checkpoint: Checkpoint, target: Target, packed: PackedTarget, head_dim: int
) -> Iterator[Job]:
    """The rows of `target` in order, as its bytes."""
    raise NotImplementedError
