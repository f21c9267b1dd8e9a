"""A model that predicts a given text: contexts that give the logits of every row, in chunks.

Only the child process imports this (depth_child.py); okno's server never loads llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from okno.bench.depth_job import Job
from okno.bench.depth_math import Ids, Logits
from okno.core.errors import DoesNotFit, EngineFailed, ModelUnusable
from okno.core.window import KVType
from okno.engines.llama_batch import Batch, float_rows
from okno.engines.llama_model import LlamaModel, recent_log, recent_problems
from okno.engines.llama_numbers import FLASH, KV_TYPES
from okno.engines.llama_threads import threads_for
from okno.engines.llama_vocab import vocabulary_of_model
from okno.engines.protocol import WorkerOptions
from okno.schedule.step import Span

LOGITS_BYTES = 32 * 2**20  # of one chunk of one context
MAX_ROWS = 256
MIN_ROWS = 16


class DepthModel:
    """A loaded model and its vocabulary. Raises ModelUnusable for a model that predicts nothing."""

    def __init__(
        self, job: Job, path: str, name: str, on_progress: Callable[[float], None]
    ) -> None:
        options = WorkerOptions(
            model_path=path, name=name, gpu_layers=job.gpu_layers, mmap=job.mmap,
            threads=job.threads, flash_attention=job.flash_attention,
        )  # fmt: skip
        model = LlamaModel(options, on_progress)
        if model.is_embedding_model or lib.llama_model_has_encoder(model.pointer):
            kind = "an embedding" if model.is_embedding_model else "an encoder-decoder"
            raise ModelUnusable(
                f"{name} is {kind} model ({model.architecture}): it does not predict the next "
                "token of a text, so no window has a loss. Give a generative model."
            )
        self.name = name
        self.model = model
        self.vocab = vocabulary_of_model(model.pointer, Path(path))
        self.job = job
        self.threads = threads_for(model.size_bytes, job.threads)
        self.rows = max(MIN_ROWS, min(MAX_ROWS, LOGITS_BYTES // (4 * self.vocab.n_tokens)))

    @property
    def keeps_only_state(self) -> bool:
        """Recurrent in every layer: there is no KV cache."""
        return bool(lib.llama_model_is_recurrent(self.model.pointer))


class Reader:
    """One context over a model. ctx: tokens of the longest text it will see."""

    def __init__(self, model: DepthModel, ctx: int, kv_type: KVType = "f16") -> None:
        self._rows = model.rows
        self._n_vocab = model.vocab.n_tokens
        self._batch = Batch(model.rows)
        params = lib.llama_context_default_params()
        params.n_ctx = ctx
        params.n_batch = params.n_ubatch = params.n_outputs_max = model.rows
        params.n_seq_max = 1
        model.threads.apply_to(params)
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.flash_attn_type = FLASH[model.job.flash_attention]
        params.swa_full = False
        params.no_perf = True
        self._context = lib.llama_init_from_model(model.model.pointer, params)
        if not self._context:
            raise DoesNotFit(
                f"The engine cannot open a window of {ctx:,} tokens ({kv_type} KV) for "
                f"{model.name}: {' | '.join(recent_problems())}. Ask for less with --ctx."
            )

    def forget(self) -> None:
        """Begin a new text."""
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)

    def read(self, tokens: Ids, start: int) -> None:
        """Compute tokens at positions start.. without looking at what follows them."""
        for at in range(0, len(tokens), self._rows):
            self._decode(tokens[at : at + self._rows], start + at, wants_all=False)

    def logits(self, tokens: Ids, start: int) -> Logits:
        """Compute at most `rows` tokens at positions start..; what each predicts of the next one.
        A view that the next call overwrites."""
        self._decode(tokens, start, wants_all=True)
        return float_rows(lib.llama_get_logits(self._context), len(tokens), self._n_vocab)

    def close(self) -> None:
        """Free the context; unusable afterwards."""
        lib.llama_free(self._context)

    def _decode(self, tokens: Ids, start: int, *, wants_all: bool) -> None:
        self._batch.fill([Span("", 0, start, tokens, 0)])
        if wants_all:
            self._batch.want_all()
        code = lib.llama_decode(self._context, self._batch.struct)
        if code != 0:
            raise EngineFailed(
                f"The engine refused {len(tokens)} tokens at position {start:,} with code {code}: "
                f"{' | '.join(recent_log(3))}"
            )


def chunks(n_tokens: int, rows: int) -> Iterator[slice]:
    """The inputs of a pass in chunks: all tokens but the last, which predicts nothing judged."""
    for start in range(0, n_tokens - 1, rows):
        yield slice(start, min(start + rows, n_tokens - 1))


def as_ids(tokens: Sequence[int]) -> NDArray[np.int32]:
    """Token ids as the engine takes them."""
    return np.asarray(tokens, dtype=np.int32)
