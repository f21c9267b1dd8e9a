"""A block model in llama.cpp, with a stopwatch around its decode calls."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from okno.bench.calibrate_models import N_VOCAB
from okno.core.errors import DoesNotFit, ModelUnusable
from okno.core.load import FlashAttention
from okno.core.window import KVType
from okno.engines.amx import settle_amx
from okno.engines.llama_batch import Batch, float_rows
from okno.engines.llama_model import recent_log, start_backend
from okno.engines.llama_numbers import FLASH, KV_TYPES
from okno.schedule.step import Span

FILL_CELLS = 256
MOST_ROWS = 512


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one sequence, which has `depth` cells before them."""

    seq: int
    count: int
    depth: int


class BlockEngine:
    """A loaded model and one context with a unified KV pool, as okno's engine opens it."""

    def __init__(self, model: Any, context: Any) -> None:
        self._model, self._context = model, context
        self._memory: Any = lib.llama_get_memory(context)
        self._batch = Batch(MOST_ROWS)
        self._filling: ctypes.Array[ctypes.c_uint8] | None = None

    def step_s(
        self, rows: Sequence[Rows], *, keep: bool = False, filler: Rows | None = None
    ) -> float:
        """Seconds of one decode call with logits for all rows: without, the last layer would
        compute no more of them than their keys and values. keep: its cells stay, else they are
        forgotten again. filler: as in schedule.step.Step, in an empty sequence, forgotten in any
        case and without logits."""
        count, seq = (filler.count, filler.seq) if filler else (0, 0)
        self._batch.fill([_span(r) for r in rows], count, seq)
        self._batch.want_all(count)
        began = time.perf_counter()
        code = lib.llama_decode(self._context, self._batch.struct)
        lib.llama_synchronize(self._context)
        seconds = time.perf_counter() - began
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}: {' | '.join(recent_log(5))}")
        if count:
            lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        if not keep:
            for r in rows:
                lib.llama_memory_seq_rm(self._memory, r.seq, r.depth, -1)
        return seconds

    def fill(self, seq: int, cells: int, spare: int) -> None:
        """Give `seq` so many cells (a multiple of FILL_CELLS) at little cost: FILL_CELLS are
        computed once in sequence `spare`, and copies of that state are handed to `seq`. Their
        positions repeat, which attention does not mind."""
        if self._filling is None:
            self._filling = self._computed(spare)
        state = self._filling
        for _ in range(cells // FILL_CELLS):
            if lib.llama_state_seq_set_data(self._context, state, len(state), spare) == 0:
                raise RuntimeError("llama.cpp does not restore the state it has just saved")
            lib.llama_memory_seq_cp(self._memory, spare, seq, 0, -1)
            lib.llama_memory_seq_rm(self._memory, spare, -1, -1)

    def _computed(self, seq: int) -> ctypes.Array[ctypes.c_uint8]:
        """The state of FILL_CELLS tokens, computed in `seq`, which is empty again."""
        self.step_s([Rows(seq, FILL_CELLS, 0)], keep=True)
        size = lib.llama_state_seq_get_size(self._context, seq)
        state: ctypes.Array[ctypes.c_uint8] = (ctypes.c_uint8 * size)()
        lib.llama_state_seq_get_data(self._context, state, size, seq)
        lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return state

    def logits(self, rows: int) -> NDArray[np.float32]:
        """Of the last call's rows: a view that the next call overwrites."""
        vocab = lib.llama_model_get_vocab(self._model)
        return float_rows(
            lib.llama_get_logits(self._context), rows, lib.llama_vocab_n_tokens(vocab)
        )

    def forget(self) -> None:
        """Empty the KV cache."""
        lib.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)


def _span(rows: Rows) -> Span:
    tokens = np.arange(rows.count, dtype=np.int32) % N_VOCAB
    return Span("", rows.seq, rows.depth, tokens, 0)


@contextmanager
def open_block(
    path: Path, threads: int, *, cells: int, n_seq: int = 1, kv_type: KVType = "f16",
    flash: FlashAttention = "on",
) -> Iterator[BlockEngine]:  # fmt: skip
    """Load the model at `path` with `threads` and a pool of `cells`. Raises ModelUnusable, or
    DoesNotFit when there is no memory for the context."""
    start_backend()
    loading = lib.llama_model_default_params()
    loading.load_mode = lib.LLAMA_LOAD_MODE_NONE
    loading.n_gpu_layers = 0
    loading.use_extra_bufts = settle_amx(path)
    model = lib.llama_model_load_from_file(str(path).encode(), loading)
    if not model:
        raise ModelUnusable(f"llama.cpp cannot load {path}: {' | '.join(recent_log(3))}")
    params = _context_params(threads, cells, n_seq, kv_type)
    params.flash_attn_type = FLASH[flash]
    context = lib.llama_init_from_model(model, params)
    if not context:
        lib.llama_model_free(model)
        raise DoesNotFit(f"There is no memory to calibrate with a KV cache of {cells:,} tokens.")
    engine = BlockEngine(model, context)
    try:
        yield engine
    finally:
        engine.close()


def _context_params(
    threads: int, cells: int, n_seq: int, kv_type: KVType
) -> lib.llama_context_params:
    params = lib.llama_context_default_params()
    params.n_ctx = cells
    params.n_seq_max = n_seq
    params.n_batch = params.n_ubatch = MOST_ROWS
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = KV_TYPES[kv_type]
    params.kv_unified = True
    params.swa_full = False
    params.no_perf = True
    return params
