"""How much of the raw engine's speed is left when one client streams through okno's HTTP.

    python benchmarks/overhead.py /tmp/llama-1b-Q4_0.gguf --out docs/benchmarks/overhead.md

Alternates, in one run and in changing order: (raw) llama_decode + argmax in a process of its own,
and (http) `okno serve --batch-size 1` with one streaming client that measures from the first to
the last token. Every repetition loads afresh. Make the model with `python -m okno.bench.shapes`.
Run it on a quiet machine: the two contestants are compared to a few percent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from okno.bench.client import Address, Exchange, delta_text, get
from okno.bench.rawloop import prompt_of
from okno.bench.report import environment, publish, table
from okno.bench.served import serve
from okno.engines.process import worker_environment

GOAL = 0.97
WARM_UP_TOKENS = 16
RAW_TIMEOUT_S = 3600
HEADER = ("run", "raw tok/s", "HTTP tok/s", "server's own tok/s", "HTTP / raw", "first token raw",
          "first token HTTP")  # fmt: skip


@dataclass(frozen=True)
class Rate:
    """One measured stream. server_tokens_per_s: by the server's own timings (raw: the same)."""

    first_token_s: float
    tokens_per_s: float
    server_tokens_per_s: float
    text_events: int = 0


def measure_raw(options: argparse.Namespace) -> Rate:
    """The raw loop in a fresh process."""
    command = [
        sys.executable, "-m", "okno.bench.rawloop", str(options.model),
        "--prompt-tokens", str(options.prompt_tokens), "--tokens", str(options.tokens),
        "--ctx", str(options.ctx), "--warm-up", str(WARM_UP_TOKENS),
    ]  # fmt: skip
    if options.threads:
        command += ["--threads", str(options.threads)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=RAW_TIMEOUT_S,
        env=worker_environment(),  # the same thread waiting on both sides
    )
    figures = json.loads(done.stdout)
    rate = figures["decode_tokens_per_s"]
    return Rate(figures["prefill_s"], rate, rate)


async def measure_http(options: argparse.Namespace, log: Path) -> Rate:
    """One stream through a fresh server, after a warm-up with another prompt."""
    flags = ["--model", str(options.model), "--batch-size", "1", "--ctx", str(options.ctx)]
    if options.threads:
        flags += ["--threads", str(options.threads)]
    async with serve(flags, log) as served:
        n_vocab = await vocabulary_size(served.address)
        # Short: what it leaves parked would make attention walk more cells than the raw loop's.
        warm_up = prompt_of(WARM_UP_TOKENS, n_vocab, seed=1)
        await stream(served.address, warm_up, WARM_UP_TOKENS)
        prompt = prompt_of(options.prompt_tokens, n_vocab)
        return await stream(served.address, prompt, options.tokens)


async def vocabulary_size(address: Address) -> int:
    _, body = await get(address, "/props")
    return int(json.loads(body)["model"]["n_vocab"])


async def stream(address: Address, prompt: list[int], n_tokens: int) -> Rate:
    """Greedy, ignore_eos, n_tokens. Raises RuntimeError when the server made another number."""
    body = {"prompt": prompt, "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True,
            "stream": True}  # fmt: skip
    arrivals: list[float] = []
    timings: dict[str, float] = {}
    began = time.perf_counter()
    exchange = await Exchange.open(address, "POST", "/v1/completions", body)
    if await exchange.status() != 200:
        raise RuntimeError(f"the server refused: {(await exchange.body()).decode()}")
    async for event in exchange.events():
        if "error" in event:
            raise RuntimeError(f"the stream failed: {event['error']}")
        if delta_text(event):
            arrivals.append(time.perf_counter())
        timings = event.get("timings", timings)
    await exchange.close()
    if timings["predicted_n"] != n_tokens:
        raise RuntimeError(f"{timings['predicted_n']} tokens came instead of {n_tokens}")
    return Rate(
        arrivals[0] - began,
        (n_tokens - 1) / (arrivals[-1] - arrivals[0]),
        timings["predicted_per_second"],
        len(arrivals),
    )


async def measure(options: argparse.Namespace) -> list[tuple[Rate, Rate]]:
    """Pairs (raw, http); who goes first changes, so that a drift of the machine cancels out."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        for number in range(options.repetitions):
            if number % 2:
                http = await measure_http(options, log)
                raw = await asyncio.to_thread(measure_raw, options)
            else:
                raw = await asyncio.to_thread(measure_raw, options)
                http = await measure_http(options, log)
            print(f"repetition {number + 1}: raw {raw.tokens_per_s:.2f}, http "
                  f"{http.tokens_per_s:.2f} tokens/s", file=sys.stderr, flush=True)  # fmt: skip
            pairs.append((raw, http))
    return pairs


def report(pairs: list[tuple[Rate, Rate]], options: argparse.Namespace) -> str:
    rows = [row(str(number), *pair) for number, pair in enumerate(pairs, 1)]
    raw = median([pair[0] for pair in pairs])
    http = median([pair[1] for pair in pairs])
    ratio = http.tokens_per_s / raw.tokens_per_s
    size_mb = options.model.stat().st_size / 1e6
    return (
        "# One stream through HTTP against the raw engine loop\n\n"
        f"Of the raw loop's tokens/s, **{ratio:.3f}** arrive at an HTTP client (goal: at least "
        f"{GOAL}; {'reached' if ratio >= GOAL else 'missed'}). Model {options.model.name} "
        f"({size_mb:,.0f} MB), {options.prompt_tokens} prompt tokens, {options.tokens} generated "
        f"greedily, ctx {options.ctx}, batch size 1, threads {options.threads or 'auto'}.\n\n"
        f"{environment()}\n"
        + table(HEADER, [*rows, row("median", raw, http)])
        + "\nTokens/s: tokens after the first by the time from the first to the last. HTTP: at the "
        "client, from the first to the last event with text (fewest events with text in a run: "
        f"{min(http.text_events for _, http in pairs)}). First token raw: the prefill alone. Every "
        "run is a fresh process and a fresh load, after a warm-up.\n"
    )


def row(name: str, raw: Rate, http: Rate) -> list[str]:
    return [
        name, f"{raw.tokens_per_s:.2f}", f"{http.tokens_per_s:.2f}",
        f"{http.server_tokens_per_s:.2f}", f"{http.tokens_per_s / raw.tokens_per_s:.3f}",
        f"{raw.first_token_s * 1000:.0f} ms", f"{http.first_token_s * 1000:.0f} ms",
    ]  # fmt: skip


def median(rates: list[Rate]) -> Rate:
    """The median of each figure."""
    return Rate(
        statistics.median(r.first_token_s for r in rates),
        statistics.median(r.tokens_per_s for r in rates),
        statistics.median(r.server_tokens_per_s for r in rates),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--tokens", type=int, default=256, help="tokens generated per run")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=None, help="both contestants; default auto")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    options = parser.parse_args()
    publish(report(asyncio.run(measure(options)), options), options.out)


if __name__ == "__main__":
    main()
