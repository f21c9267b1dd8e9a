"""The user's own table of hardware (mission, row 8), and how it stands against a plan.

The table names video memory; here its rows are read for whatever memory the model lives in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from okno.core.load import Load
from okno.core.window import KVType
from okno.plan.memory import MemoryModel
from okno.plan.search import ctx_ladder, fits, largest_batch, widest_ctx, window_of
from okno.plan.words import size

GIB = 1 << 30
NOMINAL_SHARE = 0.9  # an "8 GB" device reports somewhat less
Verdict = Literal["holds", "holds in part", "does not hold", "more is possible"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One row: from memory_bytes on, these batch sizes and windows work. batch_high None: open."""

    name: str
    memory_bytes: int
    batch_low: int
    batch_high: int | None
    ctx_low: int
    ctx_high: int
    models: str

    def in_words(self) -> str:
        """`batch 2-4, ctx 2,048-4,096 (Saiga, Mistral)`."""
        upward = "+" if self.batch_high is None else f"-{self.batch_high}"
        batch = f"{self.batch_low}{'' if self.batch_high == self.batch_low else upward}"
        return f"batch {batch}, ctx {self.ctx_low:,}-{self.ctx_high:,} ({self.models})"


TABLE = (
    Claim("4 GB", 4 * GIB, 1, 1, 512, 1024, "mini models"),
    Claim("8 GB", 8 * GIB, 1, 1, 1024, 2048, "GGUF, 4-bit"),
    Claim("16-24 GB", 16 * GIB, 2, 4, 2048, 4096, "Saiga, Mistral"),
    Claim("48+ GB", 48 * GIB, 8, None, 8192, 16_384, "large models"),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A row against one model on one machine. low, high: bytes that the row's smallest and largest
    window need. widest_ctx: at the row's largest batch; most_batch: at its widest ctx; None: not
    even the least."""

    claim: Claim
    verdict: Verdict
    low_bytes: int
    high_bytes: int
    widest_ctx: int | None
    most_batch: int | None
    text: str


def claim_for(memory_bytes: int) -> Claim | None:
    """The row for so much memory; None below the table."""
    reached = [claim for claim in TABLE if memory_bytes >= claim.memory_bytes * NOMINAL_SHARE]
    return reached[-1] if reached else None


def judge(
    claim: Claim, memory: MemoryModel, ctx_train: int, *, template: Load, room_bytes: int = 0,
    kv_type: KVType = "f16",
) -> Judged:  # fmt: skip
    """Whether the row holds for the model that `memory` describes, and what more there is.

    A row never asks for more context than the model was trained on.
    """
    batch_high = claim.batch_high or claim.batch_low
    ctx_low, ctx_high = min(claim.ctx_low, ctx_train), min(claim.ctx_high, ctx_train)
    low = window_of(template, claim.batch_low, ctx_low, kv_type)
    high = window_of(template, batch_high, ctx_high, kv_type)
    plans = memory.memory(low), memory.memory(high)
    widest = widest_ctx(memory.memory, high, ctx_ladder(ctx_train), room_bytes)
    most = largest_batch(memory.memory, high, room_bytes)
    low_fits, high_fits = (fits(plan, room_bytes) for plan in plans)
    verdict = _verdict(low_fits, high_fits, (widest or 0) > ctx_high or (most or 0) > batch_high)
    needed = plans[0].needed_bytes, plans[1].needed_bytes
    text = _text(verdict, low, high, needed, widest, most)
    return Judged(claim, verdict, *needed, widest, most, text)


def _verdict(low_fits: bool, high_fits: bool, more: bool) -> Verdict:
    if not low_fits:
        return "does not hold"
    if not high_fits:
        return "holds in part"
    return "more is possible" if more else "holds"


def _text(
    verdict: Verdict, low: Load, high: Load, needed: tuple[int, int],
    widest: int | None, most: int | None,
) -> str:  # fmt: skip
    least, largest = _window(low), _window(high)
    if verdict == "does not hold":
        return f"Even {least} needs {size(needed[0])}, more than is free."
    if verdict == "holds in part":
        return (
            f"{_first(least)} fits ({size(needed[0])}), {largest} ({size(needed[1])}) does not; "
            f"ctx {_count(widest)} is the most at batch {high.window.batch_size}."
        )
    beyond = (
        f"With batch {high.window.batch_size} ctx may be up to {_count(widest)}, with ctx "
        f"{high.window.ctx:,} the batch up to {_count(most)}."
    )
    fitting = f"{_first(largest)} fits ({size(needed[1])})."
    return f"{fitting} {beyond}" if verdict == "more is possible" else fitting


def _window(load: Load) -> str:
    return f"batch {load.window.batch_size} x ctx {load.window.ctx:,}"


def _first(text: str) -> str:
    return text[0].upper() + text[1:]


def _count(number: int | None) -> str:
    return "none" if number is None else f"{number:,}"
