"""llama.cpp without okno around it: load, decode rows, read logits. For comparisons and tests.

Loads with the defaults of `WorkerOptions` and the engine's own constants, so that what is compared
with okno differs from it in nothing but okno.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from okno.core.errors import DoesNotFit, ModelUnusable
from okno.core.load import FlashAttention
from okno.engines.amx import settle_amx
from okno.engines.llama_model import recent_log, start_backend
from okno.engines.llama_numbers import FLASH
from okno.engines.llama_threads import Threads, threads_for
from okno.engines.protocol import WorkerOptions

DEFAULTS = WorkerOptions(model_path="", name="")
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RawOptions:
    """What the engine is loaded with. ctx: tokens of one sequence, never divided by n_seq.

    threads None: as okno chooses them. step_tokens: rows of one decode call, and of a micro-batch.
    kv_f32: keys and values in 32 bits, as references compute them. repack: quantised matrices in
    the order that the fastest kernels want.
    """

    ctx: int = 2048
    n_seq: int = 1
    threads: int | None = DEFAULTS.threads
    step_tokens: int = DEFAULTS.step_tokens
    flash_attention: FlashAttention = DEFAULTS.flash_attention
    kv_unified: bool = DEFAULTS.kv_unified
    mmap: bool = DEFAULTS.mmap
    gpu_layers: int = DEFAULTS.gpu_layers
    embeddings: bool = False
    kv_f32: bool = False
    repack: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One token of one decode call. output: its logits are wanted."""

    token: int
    position: int
    seq: int = 0
    output: bool = True


class RawEngine:
    """A loaded model and one context. `memory` is llama.cpp's handle for seq_rm, seq_cp, ..."""

    def __init__(self, model: Any, context: Any, options: RawOptions) -> None:
        self.model = model
        self.context = context
        self.options = options
        self.memory: Any = lib.llama_get_memory(context)
        self.vocab: Any = lib.llama_model_get_vocab(model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self.vocab))
        self.n_embd = int(lib.llama_model_n_embd(model))
        self._batch = lib.llama_batch_init(options.step_tokens, 0, 1)

    def decode(self, rows: Sequence[Row]) -> None:
        """Compute at most step_tokens rows in one call. Raises RuntimeError when refused."""
        if len(rows) > self.options.step_tokens:
            raise ValueError(f"{len(rows)} rows exceed {self.options.step_tokens} of one call")
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, row in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = row.token, row.position, row.output
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row.seq
        code = lib.llama_decode(self.context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode refused {len(rows)} rows with code {code}")

    def prefill(self, tokens: Sequence[int], *, seq: int = 0, start: int = 0) -> None:
        """Compute a prompt in pieces of step_tokens; only its last row has logits."""
        last = len(tokens) - 1
        rows = [Row(t, start + i, seq, output=i == last) for i, t in enumerate(tokens)]
        for first in range(0, len(rows), self.options.step_tokens):
            self.decode(rows[first : first + self.options.step_tokens])

    def logits(self, row: int = -1) -> Floats:
        """The logits of a row of the last call: a view that the next call overwrites."""
        pointer = lib.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def pooled(self, seq: int = 0) -> Floats:
        """The pooled embedding of a sequence of the last call (needs `embeddings`)."""
        pointer = lib.llama_get_embeddings_seq(self.context, seq)
        return np.array(np.ctypeslib.as_array(pointer, (self.n_embd,)))

    def forget(self) -> None:
        """Empty the KV cache of all sequences."""
        lib.llama_memory_clear(self.memory, True)

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`; special: add BOS/EOS as the model asks."""
        data = text.encode()
        buffer = (ctypes.c_int32 * (len(data) + 8))()
        count = lib.llama_tokenize(self.vocab, data, len(data), buffer, len(buffer), special, False)
        return list(buffer[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens have none."""
        buffer = ctypes.create_string_buffer(256)
        size = lib.llama_token_to_piece(self.vocab, token, buffer, 256, 0, False)
        return buffer.raw[:size]

    def close(self) -> None:
        """Free context and model; the engine is unusable afterwards."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)


@contextmanager
def open_raw(path: Path, options: RawOptions | None = None) -> Iterator[RawEngine]:
    """Load a GGUF. Raises ModelUnusable, or DoesNotFit when there is no memory for the context."""
    options = options or RawOptions()
    start_backend()
    model = lib.llama_model_load_from_file(str(path).encode(), _model_params(path, options))
    if not model:
        raise ModelUnusable(f"llama.cpp cannot load {path}: {' | '.join(recent_log(3))}")
    threads = threads_for(lib.llama_model_size(model), options.threads)
    context = lib.llama_init_from_model(model, _context_params(options, threads))
    if not context:
        lib.llama_model_free(model)
        raise DoesNotFit(f"No context of {options.n_seq} x {options.ctx} tokens for {path}.")
    engine = RawEngine(model, context, options)
    try:
        yield engine
    finally:
        engine.close()


def _model_params(path: Path, options: RawOptions) -> lib.llama_model_params:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.use_extra_bufts = settle_amx(path) and options.repack
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if options.mmap else lib.LLAMA_LOAD_MODE_NONE
    return params


def _context_params(options: RawOptions, threads: Threads) -> lib.llama_context_params:
    params = lib.llama_context_default_params()
    params.n_ctx = options.ctx * options.n_seq
    params.n_seq_max = options.n_seq
    params.n_batch = params.n_ubatch = options.step_tokens
    threads.apply_to(params)
    params.flash_attn_type = FLASH[options.flash_attention]
    params.kv_unified = options.kv_unified
    params.swa_full = False
    params.no_perf = True
    if options.kv_f32:
        params.type_k = params.type_v = lib.GGML_TYPE_F32
    params.embeddings = options.embeddings
    return params
