"""How many threads compute a step.

llama.cpp's threads meet after every operation of the graph. With one row of a tiny model that
waiting is most of the work; with more rows the work may be worth it (thread_trial.py).
"""

from __future__ import annotations

from typing import NamedTuple

import llama_cpp.llama_cpp as lib

from okno.inspect.cpu import usable_cores

SMALL_MODEL_BYTES = 32 * 2**20


class Threads(NamedTuple):
    """Of a step of one row, and of a step of more."""

    alone: int
    together: int

    def apply_to(self, params: lib.llama_context_params) -> None:
        """What a context begins with, and keeps where nothing is tried."""
        params.n_threads = params.n_threads_batch = self.alone


def threads_for(model_bytes: int, asked: int | None = None) -> Threads:
    """`asked`, or every usable core, except for one row of a small model."""
    together = asked or usable_cores()
    alone = 1 if asked is None and model_bytes < SMALL_MODEL_BYTES else together
    return Threads(alone, together)
