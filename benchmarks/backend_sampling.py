"""Does sampling in the engine's graph (llama_set_sampler) pay, against okno's own sampler?

    python -m okno.bench.shapes qwen3-mid --type Q4_0 --out /tmp/shapes/qwen3-mid-Q4_0.gguf
    python benchmarks/backend_sampling.py /tmp/shapes/qwen3-mid-Q4_0.gguf

Steps of `--live` sequences, one row each, in changing order: (plain) llama_decode alone, (okno)
with okno's batch sampler after it, (graph) with llama.cpp's samplers attached to every sequence.
What is compared is the time above plain. The texts are not compared: llama.cpp's chain divides one
float32 number of a Mersenne Twister among the candidates, okno runs a race (docs/decisions.md).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from okno.bench.raw import RawEngine, RawOptions, Row, open_raw
from okno.bench.report import environment, publish, table
from okno.core.request import Sampling
from okno.engines.llama_batch import float_rows
from okno.engines.sampling import Sampler
from okno.engines.sampling_batch import Ask, sample_all

KINDS = {
    "greedy": Sampling(temperature=0),
    "temperature 1": Sampling(),
    "0.7, top_k 20, top_p 0.8": Sampling(temperature=0.7, top_k=20, top_p=0.8),
    "0.6, top_p 0.9": Sampling(temperature=0.6, top_p=0.9),
}
HEADER = ("sampling", "plain step", "okno adds", "graph adds", "okno / graph")
NONE = -1  # llama_get_sampled_token_ith without a token


def chain(s: Sampling, seed: int) -> Any:
    """llama.cpp's samplers for `s`."""
    made = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    if s.temperature == 0:
        links = [lib.llama_sampler_init_greedy()]
    else:
        links = [lib.llama_sampler_init_top_k(s.top_k)] if s.top_k else []
        links += [lib.llama_sampler_init_top_p(s.top_p, 1)] if s.top_p < 1 else []
        links += [lib.llama_sampler_init_temp(s.temperature), lib.llama_sampler_init_dist(seed)]
    for link in links:
        lib.llama_sampler_chain_add(made, link)
    return made


class Contestant:
    """An engine whose sequences hold one token each and decode the second one again and again."""

    def __init__(self, engine: RawEngine, live: int) -> None:
        self.engine = engine
        self._rows = [Row(2, 1, seq) for seq in range(live)]
        engine.decode([Row(1, 0, seq) for seq in range(live)])

    def step(self, finish: Callable[[], object]) -> float:
        """Seconds of one step, `finish` included."""
        lib.llama_memory_seq_rm(self.engine.memory, -1, 1, -1)
        began = time.perf_counter()
        self.engine.decode(self._rows)
        lib.llama_synchronize(self.engine.context)
        finish()
        return time.perf_counter() - began


def attach(engine: RawEngine, s: Sampling, live: int) -> None:
    for seq in range(live):
        if not lib.llama_set_sampler(engine.context, seq, chain(s, seq)):
            raise SystemExit("the engine cannot sample in its graph with these settings")


def okno_sampling(engine: RawEngine, s: Sampling, live: int) -> Callable[[], object]:
    samplers = [Sampler(s, seed=seq, n_vocab=engine.n_vocab) for seq in range(live)]

    def finish() -> None:
        rows = float_rows(lib.llama_get_logits(engine.context), live, engine.n_vocab)
        sample_all(rows, [Ask(at, sampler) for at, sampler in enumerate(samplers)])

    return finish


def graph_sampling(engine: RawEngine, live: int) -> Callable[[], object]:
    def finish() -> None:
        found = [lib.llama_get_sampled_token_ith(engine.context, i) for i in range(live)]
        assert NONE not in found, "the graph sampled every row"

    return finish


def measure(options: argparse.Namespace, s: Sampling) -> dict[str, float]:
    """Median seconds of a step for each contestant."""
    load = RawOptions(ctx=64, n_seq=options.live, gpu_layers=options.gpu_layers)
    with ExitStack() as stack:
        plain, graph = (stack.enter_context(open_raw(options.model, load)) for _ in range(2))
        attach(graph, s, options.live)
        ours, theirs = Contestant(plain, options.live), Contestant(graph, options.live)
        steps = {
            "plain": (ours, lambda: None),
            "okno": (ours, okno_sampling(plain, s, options.live)),
            "graph": (theirs, graph_sampling(graph, options.live)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        order = np.random.default_rng(0)
        for number in range(options.rounds + 2):
            for name in order.permutation(list(steps)).tolist():
                contestant, finish = steps[name]
                taken = contestant.step(finish)
                if number >= 2:
                    seconds[name].append(taken)
    return {name: statistics.median(found) for name, found in seconds.items()}


def report(options: argparse.Namespace) -> str:
    rows = []
    for name, s in KINDS.items():
        found = measure(options, s)
        okno, graph = (found[side] - found["plain"] for side in ("okno", "graph"))
        times = (f"{1e3 * seconds:.2f} ms" for seconds in (found["plain"], okno, graph))
        rows.append([name, *times, f"{okno / graph:.2f}"])
    return (
        "# Sampling in the graph against okno's own\n\n"
        f"{options.live} sequences of {options.model.name}, one row each; medians of "
        f"{options.rounds} rounds.\n\n{environment()}\n{table(HEADER, rows)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a GGUF file with a large vocabulary")
    parser.add_argument("--live", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--gpu-layers", type=int, default=-1)
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    options = parser.parse_args()
    publish(report(options), options.out)


if __name__ == "__main__":
    main()
