"""How a model is loaded, and the sizes of the engine's context that follow from it.

The engine opens its context with these sizes and the planner predicts memory from them: one
formula for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from okno.core.window import MAX_BATCH_SIZE, Window

PARKED_SEQS = 16  # engine sequences kept beside the live ones for prefixes of earlier requests
CELL_PAD = 256  # llama.cpp pads the cells of a cache to this (llama-kv-cache.cpp, FATTN_KQ_STRIDE)
LINE_ROWS = 16  # row numbers in a cache line
LEAST_OUTPUTS = 16  # rows with logits in a step, so that one sequence can check guesses
FlashAttention = Literal["auto", "on", "off"]
HEAD_ROWS = 128  # of one call of a prediction head
HIDDEN_ROWS = 4096  # kept for it of all sequences together, at least LEAST_HIDDEN_ROWS of each
LEAST_HIDDEN_ROWS = 256


@dataclass(frozen=True, slots=True)
class Load:
    """A window and what else decides memory and speed. gpu_layers: -1 is all. kv_unified: one
    pool of cells for all sequences."""

    window: Window
    mmap: bool = False
    flash_attention: FlashAttention = "auto"
    gpu_layers: int = -1
    kv_unified: bool = True

    @property
    def kept_hidden_rows(self) -> int:
        """Hidden states kept of each live sequence for the model's prediction head."""
        window = self.window
        return min(window.ctx, max(LEAST_HIDDEN_ROWS, HIDDEN_ROWS // window.batch_size))


@dataclass(frozen=True, slots=True)
class ContextSizes:
    """Fields of llama_context_params. n_ctx: cells in all. n_batch: rows of a step (also
    n_ubatch). filler_seq: of the engine's sequences the one for rows of nobody; None: none is left
    for them."""

    n_ctx: int
    n_batch: int
    n_seq_max: int
    n_outputs_max: int
    filler_seq: int | None = None


def context_sizes(load: Load, *, shares_prefixes: bool, keeps_state: bool) -> ContextSizes:
    """The sizes okno's engine asks for. shares_prefixes, keeps_state: of the model (plain
    attention; recurrent or hybrid, so that no guess can be taken back)."""
    window = load.window
    shares = shares_prefixes and load.kv_unified
    wanted = whole_lines(window.batch_size + PARKED_SEQS) if shares else window.batch_size
    n_seq = min(MAX_BATCH_SIZE, wanted)
    cells = window.kv_pool_tokens if load.kv_unified else window.ctx * n_seq
    padded = (cells + CELL_PAD - 1) // CELL_PAD * CELL_PAD
    fills = shares and n_seq > window.batch_size
    filler = n_seq - 1 if fills else None
    guesses = not keeps_state and (shares_prefixes or load.kv_unified)
    outputs = max(n_seq, LEAST_OUTPUTS) if guesses else n_seq
    return ContextSizes(padded, window.step_tokens, n_seq, outputs, filler)


def whole_lines(count: int) -> int:
    """`count` sequences, each of which may have a row with logits, rounded up to what keeps the
    buffers of a step on cache lines.

    llama.cpp lays out its lists of rows (tokens, positions, those with logits: 4 bytes each) in
    units of 32 bytes, and the activations after them; the rows it reserves for are a multiple of
    the sequences. Where a list does not end on a line of 64, every vector load and store of a step
    crosses one: prompts take up to 1.5 times as long (docs/benchmarks/amx.md).
    """
    return -(-count // LINE_ROWS) * LINE_ROWS


def head_sizes(load: Load) -> ContextSizes:
    """Those of the context of the model's prediction head: as many cells, the live sequences."""
    window = load.window
    padded = (window.kv_pool_tokens + CELL_PAD - 1) // CELL_PAD * CELL_PAD
    n_batch = max(window.batch_size, min(window.step_tokens, HEAD_ROWS))
    return ContextSizes(padded, n_batch, window.batch_size, window.batch_size)
