"""The pieces of work a conversion consists of: rows read, changed, and encoded, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from okno.convert.checkpoint import Checkpoint
from okno.convert.finite import check_finite
from okno.convert.layout import FACTORS, Piece, Target
from okno.convert.rope_factors import rope_factors
from okno.convert.values import changed, encoded

Bytes = npt.NDArray[np.uint8]
PIECE_BYTES = 16 * 1024 * 1024  # of the checkpoint; encoding takes up to six times as much


@dataclass(frozen=True, slots=True)
class Job:
    """make: gives the next bytes of the tensor, in any thread. source_bytes: of the checkpoint that
    it reads."""

    make: Callable[[], Bytes]
    source_bytes: int


def plain_jobs(
    checkpoint: Checkpoint, target: Target, ggml_type: str, head_dim: int, shift: float
) -> Iterator[Job]:
    """The whole of a target that is not packed."""
    if target.name in FACTORS:
        rope = checkpoint.described.rope
        yield Job(lambda: encoded(rope_factors(rope, target.name)[None], "F32", "F32"), 0)
        return
    for piece in target.pieces:
        yield from _piece_jobs(checkpoint, target, piece, ggml_type, head_dim, shift)


def _piece_jobs(
    checkpoint: Checkpoint,
    target: Target,
    piece: Piece,
    ggml_type: str,
    head_dim: int,
    shift: float,
) -> Iterator[Job]:
    stored = checkpoint.tensors[piece.source]
    row_bytes = max(1, stored.n_bytes * target.dimensions[0] // max(stored.n_values, 1))
    count = max(1, PIECE_BYTES // row_bytes // head_dim * head_dim)

    def make(first: int, n_rows: int) -> Bytes:
        rows = checkpoint.rows(piece.source, piece.first + first, n_rows)
        check_finite(rows, stored.dtype, piece.source, checkpoint.folder / stored.part)
        new = changed(rows, stored.dtype, target.change, head_dim, shift)
        dtype = "F32" if target.change == "shift" else stored.dtype
        return encoded(new, dtype, ggml_type)

    for first in range(0, piece.n_rows, count):
        n_rows = min(count, piece.n_rows - first)
        yield Job(lambda a=first, n=n_rows: make(a, n), n_rows * row_bytes)  # type: ignore[misc]
