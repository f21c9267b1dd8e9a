"""Whether a model with sliding windows can take the drafts of its last step back.

A cache of a window gives a cell to a new row only where its token is out of sight for the first
row of the step (llama.cpp, src/llama-kv-cache.cpp, find_slot: is_masked_swa at seq_pos_max + 1),
and every later token sees less. So after a step in one piece, which okno's steps are in a unified
cache, rows can be removed down to its first one. Some families keep more beside the window; the
engine is asked, as llama.cpp's common_context_can_seq_rm does.
"""

from __future__ import annotations

import llama_cpp.llama_cpp as lib
import numpy as np

from okno.engines.llama_batch import Batch
from okno.engines.llama_model import LlamaModel
from okno.schedule.step import Span

TO_END = -1


def slides_back(model: LlamaModel, context: lib.llama_context_p) -> bool:
    """For a fresh `context`, which is left empty."""
    if model.keeps_state or not model.has_window_attention:
        return False
    batch, memory = Batch(2), lib.llama_get_memory(context)
    batch.fill([Span("", 0, 0, np.zeros(2, dtype=np.int32), 1)])
    done = lib.llama_decode(context, batch.struct) == 0
    taken = done and bool(lib.llama_memory_seq_rm(memory, 0, 1, TO_END))
    lib.llama_memory_clear(memory, False)
    return taken
