"""Embeddings: a second, small context on the same weights, opened at the first request.

An embedding model pools by itself (mean, cls, last), all tokens in one micro-batch, because its
attention looks both ways. A generative model has no pooling: its last hidden states are averaged
here, computed in pieces like any prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from okno.core.errors import BadRequest, DoesNotFit
from okno.core.window import Window
from okno.engines.engine import EngineBroken
from okno.engines.llama_adapters import Adapters
from okno.engines.llama_batch import Batch, float_rows
from okno.engines.llama_model import LlamaModel, recent_log
from okno.engines.llama_threads import Threads
from okno.schedule.step import Span

PIECE_TOKENS = 256


class Embedder:
    """Vectors of n_embd float32. At most `max_tokens` per input, the window's ctx."""

    def __init__(
        self, model: LlamaModel, adapters: Adapters, window: Window, threads: Threads
    ) -> None:
        self._pools = model.is_embedding_model
        self._n_embd = model.n_embd
        self.max_tokens = min(window.ctx, model.ctx_train) if self._pools else window.ctx
        rows = self.max_tokens if self._pools else min(PIECE_TOKENS, self.max_tokens)
        self._batch = Batch(rows)
        self._context = self._open(model, rows, threads)
        adapters.apply_to(self._context)

    def embed(
        self, tokens: Sequence[int], piece_rows: Callable[[], int]
    ) -> Generator[None, None, NDArray[np.float32]]:
        """See engines.engine.Engine.embed."""
        if not 0 < len(tokens) <= self.max_tokens:
            raise BadRequest(
                f"An input has {len(tokens):,} tokens; 1 to {self.max_tokens:,} can be embedded. "
                "Split it, or serve with a larger --ctx.",
                param="input",
            )
        ids = np.asarray(tokens, dtype=np.int32)
        memory = lib.llama_get_memory(self._context)
        if memory:
            lib.llama_memory_clear(memory, False)
        if self._pools:
            self._decode(ids, 0)
            pooled = float_rows(lib.llama_get_embeddings_seq(self._context, 0), 1, self._n_embd)[0]
            return np.array(pooled)
        total = np.zeros(self._n_embd, dtype=np.float64)
        start = 0
        while start < len(ids):
            piece = ids[start : start + min(self._batch.capacity, piece_rows())]
            self._decode(piece, start)
            states = float_rows(lib.llama_get_embeddings(self._context), len(piece), self._n_embd)
            total += states.sum(axis=0, dtype=np.float64)
            start += len(piece)
            yield
        mean: NDArray[np.float32] = (total / len(ids)).astype(np.float32)
        return mean

    def close(self) -> None:
        """Free the context; an embedding under way has to begin again with another one."""
        lib.llama_free(self._context)

    def _decode(self, ids: NDArray[np.int32], start: int) -> None:
        self._batch.fill([Span("", 0, start, ids, 0)])
        self._batch.want_all()
        status = lib.llama_decode(self._context, self._batch.struct)
        if status != 0:
            raise EngineBroken(f"embedding decode returned {status}: {recent_log(3)}")

    def _open(self, model: LlamaModel, rows: int, threads: Threads) -> lib.llama_context_p:
        params = lib.llama_context_default_params()
        params.n_ctx = (self.max_tokens + 255) // 256 * 256
        params.n_batch = params.n_ubatch = rows
        params.n_seq_max = 1
        threads.apply_to(params)
        params.embeddings = True
        params.pooling_type = model.pooling if self._pools else lib.LLAMA_POOLING_TYPE_NONE
        params.no_perf = True
        context = lib.llama_init_from_model(model.pointer, params)
        if not context:
            raise DoesNotFit(
                f"No memory for the embedding context of {self.max_tokens:,} tokens: "
                f"{' | '.join(recent_log(3))}. Serve with a smaller --ctx."
            )
        return context
