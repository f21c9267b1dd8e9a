"""The sizes of a step and of the caches that a load asks the engine for."""

from __future__ import annotations

from dataclasses import dataclass

from okno.core.header import ModelHeader
from okno.core.load import CELL_PAD, ContextSizes, Load, context_sizes

QUANTISED_KV = ("q8_0", "q4_0")
NO_FLASH_ATTENTION = ("grok",)  # llama_init_from_model, llama-context.cpp


@dataclass(frozen=True, slots=True)
class Sizes:
    """What llama_context makes of its parameters (llama-context.cpp).

    cells: of full attention, per stream. n_stream: caches side by side. n_seq: sequences. rows: of
    the largest step as reserved, a multiple of n_seq. outputs: rows of logits. flash: flash
    attention. rotates, full_precision: what the type of the cache adds to a step. embeds: pooled
    vectors instead of logits.
    """

    cells: int
    n_stream: int
    n_seq: int
    rows: int
    step_rows: int
    outputs: int
    flash: bool
    rotates: bool = False
    full_precision: bool = False
    embeds: bool = False

    def window_cells(self, window_tokens: int) -> int:
        """Cells of a sliding-window layer, per stream (llama-kv-cache-iswa.cpp)."""
        sequences = self.n_seq if self.n_stream == 1 else 1
        return padded(min(self.cells, window_tokens * sequences + self.step_rows))


def sizes_of(header: ModelHeader, load: Load) -> Sizes:
    """The sizes okno's engine opens `header` with under `load`."""
    context = asked_sizes(header, load)
    unified = load.kv_unified or header.is_embedding_model
    n_stream = 1 if unified else context.n_seq_max
    cells = padded(padded(context.n_ctx) // n_stream)
    step_rows = min(context.n_batch, cells * n_stream)
    reserved = min(cells * n_stream, step_rows)
    return Sizes(
        cells=cells,
        n_stream=n_stream,
        n_seq=context.n_seq_max,
        rows=-(-reserved // context.n_seq_max) * context.n_seq_max,
        step_rows=step_rows,
        outputs=min(reserved, context.n_outputs_max),
        flash=uses_flash(header, load),
        rotates=load.window.kv_type in QUANTISED_KV and not header.is_embedding_model,
        full_precision=load.window.kv_type == "f32" and not header.is_embedding_model,
        embeds=header.is_embedding_model,
    )


def asked_sizes(header: ModelHeader, load: Load) -> ContextSizes:
    """Fields of llama_context_params. An embedding model takes a text as one step
    (engines/llama_embed.py)."""
    if not header.is_embedding_model:
        return context_sizes(
            load, shares_prefixes=header.shares_prefixes, keeps_state=header.is_recurrent
        )
    tokens = min(load.window.ctx, header.ctx_train)
    return ContextSizes(padded(tokens), tokens, 1, tokens)


def padded(cells: int) -> int:
    """Whole groups of cells."""
    return (cells + CELL_PAD - 1) // CELL_PAD * CELL_PAD


def uses_flash(header: ModelHeader, load: Load) -> bool:
    """The engine reads the cache with flash attention (llama-context.cpp); `auto` is with it, where
    it can be."""
    if header.architecture in NO_FLASH_ATTENTION:
        return False
    if header.is_embedding_model or load.window.kv_type in QUANTISED_KV:
        return True
    return load.flash_attention != "off"
