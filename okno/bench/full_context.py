"""A worker process taken to the end of its window: what it holds then is the memory of a load.

Started as `python -m okno.bench.full_context [ROWS]` with WorkerOptions as msgpack on standard
input; ROWS bounds the rows computed (default: all the window has). It is built like the real
worker (engines/worker.py) with everything a worker has beside the engine; then every sequence is
filled to the window's end by decoding, in full steps, so that caches and scratch are touched as
far as they ever are. Writes one line per stage: its name and RssAnon + RssShmem in bytes. When the
engine refuses the load, the only stage is `refused`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import msgspec
import numpy as np

from okno.core.errors import OknoError
from okno.engines.engine import Engine
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import WorkerOptions
from okno.engines.transport import FrameSocket
from okno.engines.worker import Worker, end_with_parent
from okno.inspect.memory import own_bytes
from okno.schedule.step import Span, Step

REFUSED_EXIT = 3


def main() -> None:
    """Load, fill, decode; report after each."""
    end_with_parent()
    options = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=WorkerOptions)
    most_rows = int(sys.argv[1]) if len(sys.argv) > 1 else sys.maxsize
    try:
        engine = LlamaCpp(options, lambda _fraction: None)
    except OknoError as error:
        sys.stderr.write(f"{error.message}\n")
        _report("refused")
        sys.exit(REFUSED_EXIT)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(engine, options, FrameSocket(theirs))
        _report("loaded")
        if engine.facts.is_embedding_model:
            _embed(engine)
        else:
            _fill(engine, most_rows)
        _report("full")
        del worker


def _report(stage: str) -> None:
    sys.stdout.write(f"{stage} {own_bytes()}\n")
    sys.stdout.flush()


def _fill(engine: Engine, most_rows: int) -> None:
    """Every sequence to the end of its context (or as far as most_rows go), then logits of all of
    them in one step."""
    window = engine.window
    deepest = min(window.ctx, window.kv_pool_tokens // window.batch_size)
    last = min(deepest - 1, max(1, most_rows // window.batch_size))
    for spans in _pieces(window.batch_size, last, window.step_tokens):
        engine.execute(Step((), tuple(spans)))
    ends = (_span(seq, last, last + 1, logits=1) for seq in range(window.batch_size))
    engine.execute(Step((), tuple(ends)))


def _pieces(batch: int, last: int, step_tokens: int) -> Iterator[list[Span]]:
    """Steps of step_tokens rows over all sequences, one sequence after the other."""
    spans: list[Span] = []
    room = step_tokens
    for seq in range(batch):
        start = 0
        while start < last:
            end = min(last, start + room)
            spans.append(_span(seq, start, end))
            room -= end - start
            start = end
            if room == 0:
                yield spans
                spans, room = [], step_tokens
    if spans:
        yield spans


def _span(seq: int, start: int, end: int, *, logits: int = 0) -> Span:
    tokens = (np.arange(start, end, dtype=np.int32) % 199) + 100
    return Span(str(seq), seq, start, tokens, logits)


def _embed(engine: Engine) -> None:
    """One text as long as the model takes."""
    window = engine.window
    longest = min(window.ctx, engine.facts.ctx_train)
    steps = engine.embed([100 + i % 199 for i in range(longest)], lambda: window.step_tokens)
    for _ in steps:
        pass


if __name__ == "__main__":
    main()
