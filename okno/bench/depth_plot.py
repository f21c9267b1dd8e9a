"""Depth curves as pictures: loss by position and by window, in the terminal and as SVG or PNG.

matplotlib and plotext are imported only when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from okno.core.errors import BadSetting
from okno.core.plan import Figure
from okno.plan.depth import DepthCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png")
TERMINAL_ROWS = 12
MAX_COLUMNS = 100
BLUE, RED = "#2563ab", "#b3412f"


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: bits per token over tokens, the latter on a logarithmic axis."""

    title: str
    x_label: str
    x: tuple[float, ...]
    y: tuple[Figure, ...]
    ticks: tuple[int, ...]


def panels(curve: DepthCurve) -> tuple[Panel, Panel]:
    """Loss by position (at the middle of each range of positions) and loss by window."""
    middles = tuple(math.sqrt(max(p.first, 8) * p.last) for p in curve.positions)
    ctxs = tuple(window.ctx for window in curve.windows)
    largest = max(curve.positions[-1].last, 16)
    powers = tuple(1 << n for n in range(4, largest.bit_length() + 1) if 1 << n <= largest)
    by_position = Panel(
        "Loss by position, nothing cut", "tokens before it", middles,
        tuple(p.bits for p in curve.positions), powers,
    )  # fmt: skip
    by_window = Panel(
        f"Loss of the same {curve.n_judged:,} late tokens by window", "window (ctx), tokens",
        tuple(map(float, ctxs)), tuple(w.bits for w in curve.windows), ctxs,
    )  # fmt: skip
    return by_position, by_window


def in_terminal(curve: DepthCurve, columns: int) -> str:
    """Both panels as text, `columns` wide at most."""
    return "\n".join(_text(panel, min(columns, MAX_COLUMNS)) for panel in panels(curve))


def check_plot_path(path: Path) -> None:
    """Raises BadSetting for a format that cannot be drawn, or a folder that is not there."""
    if path.suffix.lower() not in FORMATS:
        raise BadSetting(
            f"--plot {path}: the format {path.suffix or '(none)'} is not drawn. Name a file that "
            f"ends in {' or '.join(FORMATS)}.",
            param="plot",
        )
    if not path.absolute().parent.is_dir():
        raise BadSetting(f"--plot {path}: there is no folder {path.parent}.", param="plot")


def save_plot(curve: DepthCurve, path: Path) -> None:
    """Both panels side by side. Raises BadSetting as check_plot_path, or if it cannot be
    written."""
    check_plot_path(path)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context({"svg.hashsalt": "okno", "svg.fonttype": "none", "font.size": 9}):
        canvas = Canvas(figsize=(9.6, 3.4), layout="constrained")
        FigureCanvasAgg(canvas)
        left, right = canvas.subplots(1, 2, sharey=True)
        for axes, panel, colour in zip((left, right), panels(curve), (BLUE, RED), strict=True):
            _draw(axes, panel, colour)
        left.set_ylabel("bits per token")
        canvas.suptitle(f"{curve.model_name} on {curve.text_name}", fontsize=10)
        stamp = {"Date": None} if path.suffix.lower() == ".svg" else None
        try:
            canvas.savefig(path, dpi=150, metadata=stamp)
        except OSError as error:
            raise BadSetting(
                f"--plot {path} cannot be written: {error.strerror}.", param="plot"
            ) from None


def _draw(axes: Axes, panel: Panel, colour: str) -> None:
    values = [figure.value for figure in panel.y]
    low = [_end(figure.low, figure.value) for figure in panel.y]
    high = [_end(figure.high, figure.value) for figure in panel.y]
    axes.fill_between(panel.x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(panel.x, values, color=colour, marker="o", markersize=3, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(panel.ticks, [f"{tick:,}" for tick in panel.ticks], rotation=30)
    axes.set_xlabel(panel.x_label)
    axes.set_title(panel.title, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)


def _text(panel: Panel, columns: int) -> str:
    import plotext  # type: ignore[import-untyped]

    figure = plotext.figure
    figure.clear.all()
    figure.plot_size(columns, TERMINAL_ROWS)
    figure.theme("colorless")
    x = [math.log2(value) for value in panel.x]
    y = [one.value for one in panel.y]
    line = figure.signal(x, y, marker="braille")
    line.lines()
    figure.draw(line)
    spans = [_end(one.high, one.value) - _end(one.low, one.value) for one in panel.y]
    figure.draw(figure.error(x, y, spans))
    figure.title(f"{panel.title} (bits per token)")
    ticks = _shown(panel.ticks, columns)
    figure.ruler("x").ticks([math.log2(tick) for tick in ticks], [f"{t:,}" for t in ticks])
    text: str = figure.build().string(True)
    return "\n".join(row.rstrip() for row in text.splitlines())


def _shown(ticks: Sequence[int], columns: int) -> list[int]:
    """Every tick, or every second when they would run into each other."""
    step = 1 + len(ticks) * 8 // max(1, columns)
    return list(ticks[::step])


def _end(end: float, value: float) -> float:
    """An interval's end to draw; the value itself where there is no end."""
    return end if math.isfinite(end) else value
