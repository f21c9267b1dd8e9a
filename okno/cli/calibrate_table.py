"""A calibration as tables: how fast this machine multiplies, row count by row count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from okno.core.calibration import Calibration
from okno.plan.speed_types import bits_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 33, 48, 64, 128, 256, 512)
BILLION = 1e9
WORSE = 0.98  # a step with more rows that does so much less is marked
MARK = "↓"


def print_calibration(calibration: Calibration) -> None:
    """To the terminal."""
    console = Console(highlight=False)
    for part in _parts(calibration):
        console.print(part)


def _parts(calibration: Calibration) -> Iterator[Table | str]:
    threads = f"{calibration.threads} thread" + ("" if calibration.threads == 1 else "s")
    yield f"{calibration.engine}, {threads}, measured {calibration.created}"
    yield (
        f"Weights are read at {calibration.bandwidth_bytes_s / 1e9:,.1f} GB/s at most; a step "
        f"varies by ±{100 * calibration.noise:.0f} % (90 %)."
    )
    yield ""
    yield (
        "Tokens/s of a model of one billion weights, without its attention, by rows of a step "
        f"({MARK}: fewer than with fewer rows). Under the types: bits of a weight"
    )
    yield _rates(calibration)
    yield ""
    yield "Attention to 1,000 tokens: microseconds per row and head"
    yield _attention(calibration)


def _rates(calibration: Calibration) -> Table:
    table = _table("rows", *(f"{name}\n{bits_of(name):.2g}" for name in calibration.weights))
    best = dict.fromkeys(calibration.weights, 0.0)
    measured = {rows for curve in calibration.weights.values() for rows in curve.at}
    for rows in (rows for rows in SHOWN_ROWS if rows in measured):
        cells = []
        for name, curve in calibration.weights.items():
            seconds = dict(zip(curve.at, curve.seconds, strict=True)).get(rows)
            if seconds is None:
                cells.append("")
                continue
            rate = rows / (seconds * BILLION)
            cells.append(f"{rate:,.1f}" + (MARK if rate < WORSE * best[name] else " "))
            best[name] = max(best[name], rate)
        table.add_row(str(rows), *cells)
    return table


def _attention(calibration: Calibration) -> Table:
    table = _table("KV type", "head size", "one row", "a few rows", "64 rows or more")
    for cost in sorted(calibration.attention, key=lambda c: (c.kv_type, c.head_dim)):
        curves = (cost.alone, cost.few, cost.tiled or cost.few)
        cells = (f"{1e9 * curve.seconds[min(1, len(curve.at) - 1)]:,.1f}" for curve in curves)
        table.add_row(cost.kv_type, str(cost.head_dim), *cells)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
