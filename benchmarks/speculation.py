"""What speculation brings where text repeats itself, and what it costs where it does not.

    python benchmarks/speculation.py --out docs/benchmarks/speculation.md
    python benchmarks/speculation.py --model /tmp/llama-1b-Q4_0.gguf --copy-model demo

Two servers of the same model, `--speculate off` and `--speculate auto` (with `--draft`, if given),
take turns, and who goes first changes. Work: copies and edits, one stream, one answer after the
other, greedy; ordinary text (sampled at temperature 1) with 1, 4 and 16 streams. Figures: tokens
after the first of each stream, by the time from the first token of any to the last; and of several
streams, tokens of the steps in which all of them decode, by their time: with guesses some end
sooner than others, and what is left runs with fewer rows. Medians. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from okno.bench.client import Address, Exchange, delta_text, get
from okno.bench.rawloop import prompt_of
from okno.bench.report import environment, publish, table
from okno.bench.served import serve

HEADINGS = (
    "work", "off, tok/s", "on, tok/s", "on / off", "goal", "until the last ends: off", "on",
    "on / off",
)  # fmt: skip
COPY_GOAL, LEAST = 1.9, 0.97
WORDS = (
    "river", "stone", "lamp", "chair", "garden", "window", "bridge", "market", "letter", "summer",
    "winter", "copper", "silver", "engine", "pencil", "basket", "candle", "mirror", "hammer",
    "ladder", "blanket", "forest", "harbour", "island", "kettle", "lantern",
)  # fmt: skip
NAMES = ("total", "count", "index", "value", "name", "result", "size", "data")
MOST_STEPS = 2048  # the server keeps
Json = dict[str, Any]
Work = Callable[[Address], Coroutine[None, None, "Rate"]]


@dataclass(frozen=True)
class Rate:
    """Tokens after the first, and the seconds they took. together: tokens/s while all streams
    decoded. right: answers that are what was asked for, to the letter."""

    tokens: int
    seconds: float
    together: float | None = None
    right: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def copies_and_edits(count: int, seed: int = 5) -> list[tuple[str, str]]:
    """Messages, and the answers they ask for, which say again most of what the messages say: what
    the demo model was taught, in the lengths it was taught (docs/demo-model.md)."""
    rng, found = random.Random(seed), []
    for number in range(count):
        words = rng.sample(WORDS, 8)
        kind = number % 4
        if kind == 0:
            answer = "\n".join(f"- {word}" for word in words)
            found.append((f"Copy this list:\n{answer}", answer))
        elif kind == 1:
            answer = code(rng)
            found.append((f"Copy this:\n{answer}", answer))
        elif kind == 2:
            items, (old, new) = words[:6], (words[3], words[-1])
            answer = ", ".join(new if item == old else item for item in items)
            found.append((f"Replace {old} with {new}: {', '.join(items)}", answer))
        else:
            answer = ", ".join(words)
            found.append((f"Repeat this line: {answer}", answer))
    return found


def code(rng: random.Random) -> str:
    """Five lines."""
    names = rng.sample(NAMES, len(NAMES))
    return "\n".join(
        [
            f"{names[0]} = load({names[1]}, {rng.randint(0, 99)})",
            f"for {names[2]} in range({rng.randint(0, 99)}):",
            f"{names[3]} = {names[4]} + {rng.randint(0, 99)}",
            f"if {names[5]} > {rng.randint(0, 999)}:",
            f"return {names[6]} * {names[7]}",
        ]
    )


async def copy_edit(address: Address, count: int) -> Rate:
    """One stream, one message after the other."""
    rates = []
    for message, answer in copies_and_edits(count):
        body = {"messages": [{"role": "user", "content": message}], "max_tokens": 160}
        rates.append(await streamed(address, "/v1/chat/completions", body, answer))
    return Rate(
        sum(rate.tokens for rate in rates),
        sum(rate.seconds for rate in rates),
        right=sum(rate.right for rate in rates),
    )


async def ordinary(address: Address, streams: int, tokens: int, n_vocab: int) -> Rate:
    """`streams` answers at once, each of `tokens` tokens, with seeds of their own."""
    bodies = [
        {"prompt": prompt_of(48, n_vocab, seed=100 + k), "max_tokens": tokens, "temperature": 1,
         "seed": k, "ignore_eos": True}
        for k in range(streams)
    ]  # fmt: skip
    before = (await steps(address, 1))["count"]
    rates = await asyncio.gather(*(streamed(address, "/v1/completions", b) for b in bodies))
    after = (await steps(address, 1))["count"]
    ran = (await steps(address, min(after - before, MOST_STEPS)))["steps"]
    together = rate_together([s for s in ran if s["step"] > before], streams)
    return Rate(sum(rate.tokens for rate in rates), max(r.seconds for r in rates), together)


def rate_together(ran: Sequence[Json], streams: int) -> float:
    """Tokens/s of the steps in which all decode and no prompt is read, the time between them
    included; each counts until the next one begins."""
    tokens, seconds = 0, 0.0
    for step, following in pairwise(ran):
        if step["decode_rows"] == streams and not step["prompt_rows"]:
            tokens += step["decode_rows"] + step["accepted_drafts"]
            seconds += following["start_s"] - step["start_s"]
    if not seconds:
        raise RuntimeError(f"no step in which all {streams} streams decode: ask for more --tokens")
    return tokens / seconds


async def steps(address: Address, last: int) -> Json:
    _, body = await get(address, f"/okno/v1/steps?last={last}")
    return cast("Json", json.loads(body))


async def streamed(
    address: Address, path: str, body: dict[str, object], wanted: str | None = None
) -> Rate:
    """One streamed answer; is it `wanted`? Raises RuntimeError when the server refuses or fails."""
    first = last = 0.0
    tokens = 0
    text = ""
    settings = {"temperature": 0, "stream": True} | body
    exchange = await Exchange.open(address, "POST", path, settings)
    if await exchange.status() != 200:
        raise RuntimeError(f"the server refused: {(await exchange.body()).decode()}")
    async for event in exchange.events():
        if "error" in event:
            raise RuntimeError(f"the stream failed: {event['error']}")
        if delta := delta_text(event):
            text += delta
            last = time.perf_counter()
            first = first or last
        tokens = event.get("timings", {}).get("predicted_n", tokens)
    await exchange.close()
    return Rate(tokens - 1, last - first, right=text == wanted)


async def measure(options: argparse.Namespace) -> dict[str, list[tuple[Rate, Rate]]]:
    """(off, on) of each repetition, by the name of the work."""
    copies = await measured_on(options.copy_model, options, copy_works(options))
    return copies | await measured_on(options.model, options, None)


def copy_works(options: argparse.Namespace) -> dict[str, Work]:
    return {"copy and edit, 1 stream": lambda a: copy_edit(a, options.messages)}


def ordinary_works(options: argparse.Namespace, n_vocab: int) -> dict[str, Work]:
    return {
        f"ordinary, {n} stream{'s' * (n > 1)}": (
            lambda a, n=n: ordinary(a, n, options.tokens, n_vocab)
        )
        for n in options.streams
    }


async def measured_on(
    model: str, options: argparse.Namespace, works: dict[str, Work] | None
) -> dict[str, list[tuple[Rate, Rate]]]:
    """Both servers of one model, each work in turn. works None: ordinary text."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = []
        for side in ("off", "auto"):
            flags = ["--model", model, "--batch-size", str(max(options.streams)), "--ctx", "1024"]
            flags += ["--speculate", side]
            flags += ["--threads", str(options.threads)] if options.threads else []
            flags += ["--draft", options.draft] if options.draft and side == "auto" else []
            served = await stack.enter_async_context(serve(flags, folder / f"{side}.log"))
            sides.append(served.address)
        if works is None:
            _, body = await get(sides[0], "/props")
            works = ordinary_works(options, int(json.loads(body)["model"]["n_vocab"]))
        return {name: await alternated(name, work, sides, options) for name, work in works.items()}


async def alternated(
    name: str, work: Work, sides: Sequence[Address], options: argparse.Namespace
) -> list[tuple[Rate, Rate]]:
    """Pairs (off, on) after one warm-up of each."""
    for address in sides:
        await work(address)
    pairs = []
    for number in range(options.repetitions):
        rates = {}
        for address in sides if number % 2 else reversed(sides):
            rates[address] = await work(address)
        pair = (rates[sides[0]], rates[sides[1]])
        print(f"{name}: {pair[0].tokens_per_s:.1f} off, {pair[1].tokens_per_s:.1f} on",
              file=sys.stderr, flush=True)  # fmt: skip
        pairs.append(pair)
    return pairs


def medians(pairs: Sequence[tuple[Rate, Rate]], rate: Callable[[Rate], float]) -> list[float]:
    """Off, on, and on / off, which is the median of the pairs' ratios."""
    off, on = [rate(pair[0]) for pair in pairs], [rate(pair[1]) for pair in pairs]
    ratios = [b / a for a, b in zip(off, on, strict=True)]
    return [statistics.median(values) for values in (off, on, ratios)]


def whole(rate: Rate) -> float:
    return rate.tokens_per_s


def together(rate: Rate) -> float:
    """A single stream is always all of them."""
    return rate.tokens_per_s if rate.together is None else rate.together


def report(found: dict[str, list[tuple[Rate, Rate]]], options: argparse.Namespace) -> str:
    rows, missed = [], []
    for name, pairs in found.items():
        off, on, ratio = medians(pairs, together)
        goal = COPY_GOAL if name.startswith("copy") else LEAST
        missed += [name] if ratio < goal else []
        whole_off, whole_on, whole_ratio = medians(pairs, whole)
        missed += [f"{name}, until the last ends"] if whole_ratio < goal <= ratio else []
        rows.append(
            [name, f"{off:.1f}", f"{on:.1f}", f"{ratio:.2f}", f"{goal}",
             f"{whole_off:.1f}", f"{whole_on:.1f}", f"{whole_ratio:.2f}"]
        )  # fmt: skip
    verdict = f"Missed: {'; '.join(missed)}." if missed else "Every goal is reached."
    copied = [pair for name, pairs in found.items() if name.startswith("copy") for pair in pairs]
    right = " and ".join(
        str(min(rate.right for rate in side)) for side in zip(*copied, strict=True)
    )
    drafting = f", draft model {options.draft}" if options.draft else ""
    return (
        "# Speculation\n\n"
        f"{verdict} Copies and edits: model {options.copy_model}, {options.messages} messages, "
        f"of whose answers at least {right} were right to the letter (off and on); "
        f"ordinary text: model {options.model}, {options.tokens} tokens a stream{drafting}. "
        f"Medians of {options.repetitions} pairs; the ratio is the median of the pairs' ratios.\n\n"
        f"{environment()}\n" + table(HEADINGS, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="for ordinary text")
    parser.add_argument("--copy-model", default="demo", help="for copies and edits")
    parser.add_argument("--draft", default=None, help="a draft model for the speculating side")
    parser.add_argument("--messages", type=int, default=24, help="copies and edits")
    parser.add_argument("--tokens", type=int, default=200, help="of ordinary text per stream")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    options = parser.parse_args()
    publish(report(asyncio.run(measure(options)), options), options.out)


if __name__ == "__main__":
    main()
