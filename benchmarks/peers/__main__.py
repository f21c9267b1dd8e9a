"""okno and its peers on the same model and machine, in one run.

    python benchmarks/peers/build_llama_server.py /tmp/llama-server-build
    python -m benchmarks.peers /tmp/shapes/llama-1b-Q4_0.gguf \
        --llama-server /tmp/llama-server-build/bin/llama-server --out docs/benchmarks/peers.md

Starts each installed peer afresh for every window of the scenarios, plays them over HTTP with the
client of `okno bench serve`, and alternates: each repetition begins with another contestant. The
page has the medians and how many times better okno is. Peers that are not here are named as that.
Run it from the checkout on a quiet machine; --scale 0.1 is a smoke run whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import batched_bench
from benchmarks.peers.adapters import Peer, Work, peers
from benchmarks.peers.scenarios import SCENARIOS, Scenario, Window
from benchmarks.peers.scene import ScenarioFailed, Scene, measured_scene
from benchmarks.peers.table import Results, failure_list, figure_table, peer_table
from okno.bench.chosen import chosen
from okno.bench.client import Address
from okno.bench.load_client import Target
from okno.bench.load_target import ready
from okno.bench.report import environment, publish, table
from okno.bench.served import started
from okno.core.errors import OknoError

BENCH_STREAMS = (1, 16, 32)
READY_TIMEOUT_S = 600.0


async def measure(
    options: argparse.Namespace, contestants: Sequence[Peer], scenarios: Sequence[Scenario]
) -> Results:
    """All repetitions of all scenarios on all contestants."""
    results = Results()
    await play(options, contestants[0], scenarios[0].window, (), results, 0)  # counts words
    windows = dict.fromkeys(scenario.window for scenario in scenarios)
    for repetition in range(options.repetitions):
        turn = repetition % len(contestants)
        for window in windows:
            played = [scenario for scenario in scenarios if scenario.window == window]
            for peer in (*contestants[turn:], *contestants[:turn]):
                await play(options, peer, window, played, results, repetition)
    return results


async def play(
    options: argparse.Namespace, peer: Peer, window: Window, scenarios: Sequence[Scenario],
    results: Results, repetition: int,
) -> None:  # fmt: skip
    """Start `peer` once and play `scenarios` on it; what it cannot do is kept as a failure."""
    work = Work(options.model, window.batch_size, window.ctx, window.kv_pool, options.threads)
    left = list(scenarios)
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = peer.program(work)
            log = Path(folder) / "log"
            async with started(program, log, ready_timeout_s=READY_TIMEOUT_S) as served:
                scene = await scene_on(peer, served.address, options, repetition)
                while left:
                    await play_one(peer, left[0], scene, results, repetition)
                    left.pop(0)
        except (RuntimeError, OSError, OknoError, ScenarioFailed) as error:
            for scenario in left:
                results.fail(scenario, peer.name, one_line(error))
            say(f"{peer.name}: {one_line(error)}")


async def scene_on(
    peer: Peer, address: Address, options: argparse.Namespace, repetition: int
) -> Scene:
    """The model is loaded and answers. The first server is asked how many tokens a word has, and
    then has prompts in its cache: so `measure` begins with one that plays nothing."""
    target = await ready(Target(address, peer.path, peer.model()))
    if options.tokens_per_word is None:
        scene = await measured_scene(
            target, repetition, options.scale, ignore_eos=peer.can_ignore_eos
        )
        options.tokens_per_word = scene.tokens_per_word
        return scene
    return Scene(target, options.tokens_per_word, repetition, options.scale, peer.can_ignore_eos)


async def play_one(
    peer: Peer, scenario: Scenario, scene: Scene, results: Results, repetition: int
) -> None:
    """One scenario, with prompts that no other one on this server has."""
    seed = 1 + repetition * len(SCENARIOS) + SCENARIOS.index(scenario)
    try:
        figures = await scenario.play(replace(scene, seed=seed))
    except ScenarioFailed as failed:
        results.fail(scenario, peer.name, one_line(failed))
        say(f"{repetition + 1}, {scenario.key}, {peer.name}: {one_line(failed)}")
        return
    results.add(scenario, peer.name, figures)
    told = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
    say(f"{repetition + 1}, {scenario.key}, {peer.name}: {told}")


def report(
    options: argparse.Namespace, contestants: Sequence[Peer], missing: dict[str, str],
    scenarios: Sequence[Scenario], results: Results, rates: dict[int, float],
) -> str:  # fmt: skip
    """The page."""
    size_mb = options.model.stat().st_size / 1e6
    names = [peer.name for peer in contestants]
    scaled = (
        f"**A smoke run: all lengths scaled by {options.scale:g}; these figures mean nothing.**\n\n"
        if options.scale != 1
        else ""
    )
    return (
        f"# okno and its peers: {options.model.name}\n\n{scaled}"
        f"The same model ({size_mb:,.0f} MB), machine and HTTP client; medians of "
        f"{options.repetitions}, each repetition begins with another contestant, every server "
        "started afresh for each window. In brackets: how many times better okno is (above 1x it "
        "is better).\n\n"
        f"{environment()}\n{figure_table(results, scenarios, names)}\n"
        f"{bench_table(rates)}"
        "## Programs\n\n"
        f"{peer_table({peer.name: peer.version() for peer in contestants}, missing)}\n"
        "## What failed\n\n"
        f"{failure_list(results, scenarios)}\n"
        "TTFT: from sending a request to its first text. Gaps: between events with text, at the "
        "client. Answers are greedy and as long as asked (`ignore_eos`); tokens are counted by the "
        "server's `usage`, by events with text where it tells none. llama-server gets the context "
        "of all slots together (`-c` = batch size x ctx, or the pool): as it is, with one pool for "
        "all (`-kvu`), and with small batches so that prompts stall the others less (`-b 64`).\n"
    )


def bench_table(rates: dict[int, float]) -> str:
    """llama-batched-bench's ceiling, if it was measured."""
    if not rates:
        return ""
    rows = [[str(streams), f"{rate:.1f}"] for streams, rate in rates.items()]
    head = table(("sequences", "llama-batched-bench, decode tok/s"), rows)
    return f"The kernels without a server:\n\n{head}\n"


def ceiling(options: argparse.Namespace) -> dict[int, float]:
    """llama-batched-bench beside the given llama-server; nothing where it is not."""
    if options.llama_server is None:
        return {}
    binary = options.llama_server.parent / "llama-batched-bench"
    if not binary.is_file():
        return {}
    return batched_bench.run(binary, options.model, BENCH_STREAMS, options.threads)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[-300:]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--llama-server", type=Path, metavar="FILE")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PACKAGE=PYTHON",
        help="the Python that has a peer, such as xllamacpp=/venv/bin/python",
    )
    parser.add_argument(
        "--safetensors",
        type=Path,
        metavar="FOLDER",
        help="the same model for vLLM and transformers",
    )
    parser.add_argument("--peers", metavar="WORDS", help="only names with one of these words")
    parser.add_argument(
        "--scenarios", metavar="KEYS", help=f"some of {', '.join(s.key for s in SCENARIOS)}"
    )
    parser.add_argument(
        "--okno",
        action="append",
        default=[],
        metavar="OPTION",
        help="an option for okno serve, such as --okno=--target-itl=0.3",
    )
    parser.add_argument("--threads", type=int, help="of every contestant; default: their own")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths, for smoke runs")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--json", type=Path, help="file for every single figure")
    parser.set_defaults(tokens_per_word=None)  # counted on the first server
    return parser.parse_args()  # fmt: skip


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped on the way out
    options = parse()
    keys = (options.scenarios or "").replace(",", " ").split()
    if unknown := set(keys) - {scenario.key for scenario in SCENARIOS}:
        sys.exit(f"error: --scenarios {' '.join(unknown)}: known are "
                 f"{', '.join(s.key for s in SCENARIOS)}")  # fmt: skip
    scenarios = [scenario for scenario in SCENARIOS if not keys or scenario.key in keys]
    pythons = {name: Path(path) for name, _, path in (p.partition("=") for p in options.python)}
    everyone = peers(options.llama_server, pythons, options.safetensors, options.okno)
    try:
        asked = chosen(everyone, options.peers)
    except OknoError as error:
        sys.exit(f"error: {error.message.replace('--cases', '--peers')}")
    why = {peer.name: peer.missing() for peer in asked}
    missing = {name: text for name, text in why.items() if text is not None}
    contestants = [peer for peer in asked if peer.name not in missing]
    results = asyncio.run(measure(options, contestants, scenarios))
    rates = ceiling(options)
    if options.json is not None:
        options.json.write_text(json.dumps(results.as_json(), indent=2), encoding="utf-8")
    publish(report(options, contestants, missing, scenarios, results, rates), options.out)


if __name__ == "__main__":
    main()
