"""A depth curve for people and for programs."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from okno.core.plan import Figure
from okno.plan.depth import Cost, DepthCurve, enough_ctx, in_words
from okno.plan.depth_document import to_document

WIDEST = 100  # columns


def as_text(curve: DepthCurve, worth_bits: float, columns: int) -> str:
    """Tables and sentences; `columns` wide at most."""
    width = min(columns, WIDEST)
    parts = [_head(curve), _rendered(_windows(curve), width), in_words(curve, worth_bits)]
    costs = [*curve.kv_types, *([curve.weights] if curve.weights else [])]
    if costs:
        parts.append(_rendered(_costs(costs), width))
    parts += [f"note: {note}" for note in curve.notes]
    return "\n\n".join(_wrapped(part, width) for part in parts)


def as_json(curve: DepthCurve, worth_bits: float) -> dict[str, Any]:
    """The curve and the answer; intervals without an end are null."""
    return to_document(curve) | {
        "worth_bits": worth_bits,
        "enough_ctx": enough_ctx(curve, worth_bits),
        "in_words": in_words(curve, worth_bits),
    }


def _head(curve: DepthCurve) -> str:
    passes = "1 pass" if curve.n_passes == 1 else f"{curve.n_passes} passes"
    return (
        f"{curve.model_name} (trained for {curve.ctx_train:,} tokens) on {curve.text_name}: "
        f"{curve.n_tokens:,} tokens in {passes}. All figures are measured, in bits per token, "
        "± is a 90 % interval."
    )


def _windows(curve: DepthCurve) -> Table:
    widest = curve.windows[-1].ctx
    table = _table(
        f"The same {curve.n_judged:,} late tokens under each window",
        ("window", "loss", "perplexity", "gained by the widening", f"lost against {widest:,}"),
    )
    for window in curve.windows:
        table.add_row(
            f"{window.ctx:,}",
            _figure(window.bits),
            f"{window.perplexity:,.2f}",
            _figure(window.gain_bits) if window.gain_bits else "",
            _figure(window.lost_bits) if window.ctx != widest else "",
        )
    return table


def _costs(costs: Iterable[Cost]) -> Table:
    table = _table(
        "What a smaller number format costs",
        ("", "against", "KL divergence", "same top token", "loss"),
    )
    for cost in costs:
        table.add_row(
            cost.name,
            cost.reference,
            f"{cost.kl_bits.value:.2g}",
            f"{100 * cost.top1.value:.2f} %",
            f"{cost.lost_bits.value:+.5f} {_half(cost.lost_bits, 5)}",
        )
    return table


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number or column == "window" else "left")
    return table


def _rendered(table: Table, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _wrapped(part: str, width: int) -> str:
    """A sentence broken at words; a table as it is."""
    return part.rstrip() if "\n" in part else textwrap.fill(part, width)


def _figure(figure: Figure) -> str:
    return f"{figure.value:.3f} {_half(figure, 3)}"


def _half(figure: Figure, digits: int) -> str:
    half = (figure.high - figure.low) / 2
    return f"± {half:.{digits}f}" if math.isfinite(half) else "± ?"
