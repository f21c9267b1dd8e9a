"""How far a long piece of work is: what the worker tells whoever watches."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told now and then, from one thread at a time. Raising in it stops the work cleanly."""

    def __call__(self, stage: str, done_bytes: int, total_bytes: int, left_s: float | None) -> None:
        """stage: what is being done, for people (`Converting`). done_bytes of total_bytes of it are
        through (total 0: not known); left_s: seconds left, None while they cannot be told yet."""


def silent(stage: str, done_bytes: int, total_bytes: int, left_s: float | None) -> None:
    """The Progress nobody watches."""
