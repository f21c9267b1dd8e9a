"""What a worker process holds beside the engine's buffers, and how far a prediction may err.

Its size on this machine is learnt once (engines/overhead.py); what grows with the model and the
window was measured on shape models (`okno bench plan-accuracy`).
"""

from __future__ import annotations

from dataclasses import dataclass

from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.plan import DeviceMemory, MemoryParts
from okno.plan.memory_parts import Weights
from okno.plan.memory_sizes import Sizes, sizes_of

MIB = 2**20
CELL_BYTES = 240  # llama_kv_cells: position, set of sequences, tree nodes; 185-345 measured
TOKEN_BYTES = 340  # a token's text in llama.cpp's vocabulary, in its maps, and in ours
MARGIN_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Overhead:
    """process_bytes: interpreter, libraries, threads, of a worker with a small model.
    margin_bytes: the 90 % (one-sided) bound on what a prediction misses, with the worker's own
    child for templates (engines/sandbox.py, 16 MiB measured) and the kernel's page tables."""

    process_bytes: int = 40 * MIB
    margin_bytes: int = 48 * MIB


DEFAULT_OVERHEAD = Overhead()


def process_bytes(header: ModelHeader, load: Load, overhead: Overhead) -> int:
    """The process with its books on this vocabulary and these cells."""
    sizes = sizes_of(header, load)
    books = TOKEN_BYTES * header.n_vocab + CELL_BYTES * sizes.cells * sizes.n_stream
    return overhead.process_bytes + books + work_bytes(header, sizes)


def work_bytes(header: ModelHeader, sizes: Sizes) -> int:
    """ggml's scratch for one product: what it multiplies, in the format of the matrix
    (ggml-cpu.c, ggml_graph_plan). The rows of the widest input, quantised: 34 bytes for 32 values;
    without flash attention also the attention of all rows to all cells, in f16 for f16 values."""
    widest = max((t.dimensions[0] for t in header.tensors if len(t.dimensions) == 2), default=0)
    products = widest * max(1, header.n_expert_used) * sizes.rows * 34 // 32
    if sizes.flash or sizes.full_precision:
        return products
    return max(products, _most_cell_heads(header, sizes) * sizes.rows * 2)


def _most_cell_heads(header: ModelHeader, sizes: Sizes) -> int:
    """Query heads times the cells they attend to, in the layer where that is most."""
    return max(
        (
            layer.n_head * (sizes.cells if layer.window is None
                            else sizes.window_cells(layer.window))
            for layer in header.layers
            if layer.k_width
        ),
        default=0,
    )  # fmt: skip


def loading_bytes(parts: MemoryParts, weights: Weights) -> int:
    """What the moment of loading takes beyond serving: a tensor to be rewritten is read into a
    buffer first, when caches and scratch do not exist yet (llama-model-loader.cpp,
    load_all_data)."""
    later = parts.kv_bytes + parts.state_bytes + parts.compute_bytes + parts.output_bytes
    return max(0, weights.largest_repacked_bytes - later)


def margin_bytes(devices: tuple[DeviceMemory, ...], overhead: Overhead) -> int:
    """Grows with the size: allocators and page tables take their share of what is touched."""
    needed = sum(device.parts.needed_bytes for device in devices)
    return max(overhead.margin_bytes, round(MARGIN_SHARE * needed))
