"""The raw engine loop: llama_decode and argmax, one sequence, nothing else. What okno can at most
reach.

    python -m okno.bench.rawloop MODEL --prompt-tokens 64 --tokens 256 --threads 2
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np

from okno.bench.raw import DEFAULTS, RawEngine, RawOptions, open_raw

FIRST_PLAIN_TOKEN = 260  # above the special and byte tokens of okno's own shapes


@dataclass(frozen=True, slots=True)
class RawRun:
    """One measured run. decode_s: from the first generated token to the last."""

    prompt_tokens: int
    generated_tokens: int
    prefill_s: float
    decode_s: float

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens after the first, per second."""
        return (self.generated_tokens - 1) / self.decode_s


def prompt_of(n_tokens: int, n_vocab: int, seed: int = 0) -> list[int]:
    """Random plain tokens, the same for every contestant."""
    source = random.Random(seed)
    low = FIRST_PLAIN_TOKEN if n_vocab > 2 * FIRST_PLAIN_TOKEN else 0
    return [source.randrange(low, n_vocab) for _ in range(n_tokens)]


def run_raw(engine: RawEngine, prompt: list[int], n_tokens: int) -> tuple[RawRun, list[int]]:
    """Prefill `prompt` and generate n_tokens greedily; the figures and the tokens."""
    engine.forget()
    began = time.perf_counter()
    engine.prefill(prompt)
    tokens = [int(engine.logits().argmax())]
    first = time.perf_counter()
    _decode(engine, len(prompt), tokens, n_tokens)
    ended = time.perf_counter()
    return RawRun(len(prompt), len(tokens), first - began, ended - first), tokens


def _decode(engine: RawEngine, position: int, tokens: list[int], n_tokens: int) -> None:
    """Append greedy tokens to `tokens` until there are n_tokens: the loop that is measured."""
    batch = lib.llama_batch_init(1, 0, 1)
    batch.n_tokens = batch.n_seq_id[0] = batch.logits[0] = 1
    batch.seq_id[0][0] = 0
    context, decode = engine.context, lib.llama_decode
    for offset in range(n_tokens - 1):
        batch.token[0], batch.pos[0] = tokens[-1], position + offset
        if decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed; is the window too small for the run?")
        row = np.ctypeslib.as_array(lib.llama_get_logits(context), (engine.n_vocab,))
        tokens.append(int(row.argmax()))
    lib.llama_batch_free(batch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m okno.bench.rawloop", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--step-tokens", type=int, default=DEFAULTS.step_tokens)
    parser.add_argument("--warm-up", type=int, default=16, help="tokens generated before measuring")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line: prints one JSON object with the figures."""
    options = _parser().parse_args(arguments)
    loaded_as = RawOptions(
        ctx=options.ctx, threads=options.threads, step_tokens=options.step_tokens
    )
    with open_raw(options.model, loaded_as) as engine:
        prompt = prompt_of(options.prompt_tokens, engine.n_vocab)
        run_raw(engine, prompt, options.warm_up)
        run, _ = run_raw(engine, prompt, options.tokens)
        n_vocab = engine.n_vocab
    figures = asdict(run) | {"decode_tokens_per_s": run.decode_tokens_per_s, "n_vocab": n_vocab}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
