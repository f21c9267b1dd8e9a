"""Logits of one sequence alone against beside k others, on real files.

    python benchmarks/batch_equality.py okno/data/demo.gguf /tmp/llama-135m-Q4_0.gguf \\
        --out docs/benchmarks/batch-equality.md

Runs the raw engine (no server) with a unified KV pool and with one stream per sequence
(kv_unified off). Prompts are computed each alone, or in random pieces that share calls; then
every step decodes all sequences in one call, in random order. The last row of each block is the
negative control: two sequences continue in each other's memory.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from okno.bench.equality import Difference, Text, alone, beside, compare, random_text
from okno.bench.raw import RawOptions, open_raw
from okno.bench.report import environment, publish, table

NEIGHBOURS = (1, 3, 7, 15, 31)
CUT_TOKENS = 13
CUT = f"cut in {CUT_TOKENS}s"
KL_BOUND = 1e-4
SWAPPED = "1, swapped"
NOISE = 1e-3  # KL above which the negative control counts as noticed

HEADER = ("file", "KV layout", "prompts", "neighbours", "largest difference", "spread of logits",
          "mean KL", "largest KL", "top-1 equal", "largest lead lost")  # fmt: skip

Found = tuple[str, str, str, str, Difference]


def texts_of(n_vocab: int, options: argparse.Namespace) -> list[Text]:
    """The watched sequence and its neighbours, whose prompts have random lengths."""
    source = random.Random(options.seed)
    longest = options.prompt_tokens
    lengths = [longest, *(source.randint(1, longest) for _ in range(max(NEIGHBOURS)))]
    return [random_text(source, n_vocab, length, options.tokens) for length in lengths]


def measure_file(path: Path, unified: bool, options: argparse.Namespace) -> list[Found]:
    """One context with room for all; the comparison for each number of neighbours."""
    ctx = -(-(options.prompt_tokens + options.tokens + 1) // 256) * 256
    load = RawOptions(
        ctx=ctx, n_seq=max(NEIGHBOURS) + 1, threads=options.threads, kv_unified=unified
    )
    layout = "unified" if unified else "streams"
    with open_raw(path, load) as engine:
        texts = texts_of(engine.n_vocab, options)
        reference = alone(engine, texts[0])
        again = compare(reference, alone(engine, texts[0]))
        cut = compare(reference, alone(engine, texts[0], CUT_TOKENS))
        rows: list[Found] = [
            (path.name, layout, "alone", "0", again),
            (path.name, layout, CUT, "0", cut),
        ]
        for mixed in (False, True):
            prompts = "mixed" if mixed else "alone"
            for count in NEIGHBOURS:
                others = texts[1 : 1 + count]
                there = beside(engine, texts[0], others, options.seed, mixed_prompts=mixed)
                rows.append((path.name, layout, prompts, str(count), compare(reference, there)))
                print(*rows[-1], file=sys.stderr, flush=True)
        crossed = beside(engine, texts[0], texts[1:2], options.seed, swap=True)
        rows.append((path.name, layout, "mixed", SWAPPED, compare(reference, crossed)))
    return rows


def report(found: list[Found], options: argparse.Namespace) -> str:
    return (
        "# The same logits beside others as alone?\n\n"
        f"{summary(found)}\n\n{environment()}\n"
        + table(HEADER, [row(*entry) for entry in found])
        + f"\nOne sequence of {options.prompt_tokens} random prompt tokens, then {options.tokens} "
        "given tokens, one per step; logits of every step are compared. Prompts alone: each in "
        "calls of its own; mixed: in pieces that share calls. Differences in logits, KL in nats; 0 "
        "means bit for bit equal. Largest lead lost: how far ahead a token was, alone, where "
        "another was chosen.\n"
    )


def summary(found: list[Found]) -> str:
    """The published bound, the engine's own noise beside it, and the control."""
    beside_others = [entry for entry in found if entry[3] not in ("0", SWAPPED)]
    cut = [d.mean_kl for _, _, prompts, _, d in found if prompts == CUT]
    worst = max(d.mean_kl for *_, d in beside_others)
    over = sorted({name for name, *_, d in beside_others if d.mean_kl > KL_BOUND})
    noticed = all(d.mean_kl > NOISE for *_, k, d in found if k == SWAPPED)
    return (
        f"Largest mean KL beside others: **{worst:.1e}** (bound: {KL_BOUND:.0e}; "
        + (f"exceeded by {', '.join(over)}" if over else "kept by every file")
        + f"). For comparison, alone but with the prompt computed in pieces of {CUT_TOKENS} "
        f"tokens, which changes the engine's kernels and nothing else: {max(cut):.1e}. The "
        "negative control (two sequences continue in each other's memory) is "
        + ("noticed everywhere." if noticed else "**not noticed** somewhere.")
    )


def row(name: str, layout: str, prompts: str, neighbours: str, d: Difference) -> list[str]:
    return [
        name, layout, prompts, neighbours, _short(d.largest), f"{d.spread:.2f}", _short(d.mean_kl),
        _short(d.largest_kl), f"{d.top1_equal} / {d.positions}", _short(d.lost_margin),
    ]  # fmt: skip


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--prompt-tokens", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=32, help="steps compared")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    options = parser.parse_args()
    found: list[Found] = []
    for path in options.models:
        for unified in (True, False):
            found += measure_file(path, unified, options)
    publish(report(found, options), options.out)


if __name__ == "__main__":
    main()
