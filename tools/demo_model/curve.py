"""Draw the loss curve of a training log as an SVG file."""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP = 720, 300, 56, 14
PLOT_W, PLOT_H = WIDTH - LEFT - 14, HEIGHT - TOP - 44
LOSSES = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
COLORS = {128: "#888888", 256: "#4477aa", 512: "#228833", 1024: "#cc3311"}


def read(path: Path) -> list[tuple[float, int, float]]:
    """(million tokens, sequence length, answer loss in nats) per step of the CSV log."""
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["step"] != "step"]
    return [(int(r["tokens"]) / 1e6, int(r["length"]), float(r["answer_loss"])) for r in rows]


def smooth(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Means of `window` points in a row."""
    cuts = [points[i : i + window] for i in range(0, len(points), window)]
    return [(sum(p[0] for p in c) / len(c), sum(p[1] for p in c) / len(c)) for c in cuts]


def draw(steps: list[tuple[float, int, float]]) -> str:
    """The SVG text: tokens to the right, loss upwards on a logarithmic axis."""
    last = steps[-1][0]
    low, high = math.log(LOSSES[0]), math.log(8)

    def x(tokens: float) -> float:
        return LEFT + PLOT_W * tokens / last

    def y(loss: float) -> float:
        return TOP + PLOT_H * (high - math.log(max(loss, LOSSES[0]))) / (high - low)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for loss in LOSSES:
        out.append(
            f'<path d="M{LEFT} {y(loss):.1f}h{PLOT_W}" stroke="#dddddd"/>'
            f'<text x="{LEFT - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss}</text>'
        )
    step = max(1, round(last / 8))
    for tokens in range(0, int(last) + 1, step):
        out.append(
            f'<text x="{x(tokens):.1f}" y="{TOP + PLOT_H + 16}" '
            f'text-anchor="middle">{tokens}</text>'
        )
    for i, (length, color) in enumerate(COLORS.items()):
        points = smooth([(t, v) for t, n, v in steps if n == length], 12)
        if not points:
            continue
        path = "L".join(f"{x(t):.1f} {y(v):.1f}" for t, v in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        out.append(
            f'<text x="{WIDTH - 170}" y="{TOP + 16 + 15 * i}" fill="{color}">'
            f"length {length} tokens</text>"
        )
    out.append(
        f'<text x="{LEFT + PLOT_W / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "million tokens seen; loss of the answer tokens, nats (log scale)</text></svg>"
    )
    return "\n".join(out) + "\n"


def main() -> None:
    """Read the log, write the SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(draw(read(args.log)), encoding="utf-8")


if __name__ == "__main__":
    main()
