"""Scratch memory of attention (llama-graph.cpp: build_qkv, build_attn, build_attn_mha)."""

from __future__ import annotations

from collections.abc import Callable

from okno.plan.memory_blocks import Block, StepGraph

SMALLEST_ROTATION = 64  # llama-kv-cache.cpp: values take this one, keys the largest that divides


def _nothing() -> None:
    """Nothing is computed between attention and its output projection."""


class Attention:
    """Attention of every layer of one graph; masks are shared by layers of one window."""

    def __init__(self, graph: StepGraph) -> None:
        self._graph = graph
        self._masks: dict[int | None, tuple[int, int, int]] = {}
        self._rotations: dict[tuple[int | None, str], int] = {}
        self._turns = "position_embd.weight" not in graph.top_names  # rotary positions
        for block in graph.blocks:
            if block.layer.n_head:
                self._inputs(block)

    def compute(self, block: Block, source: int, then: Callable[[], None] = _nothing) -> int:
        """The layer's attention output. then: what the graph computes before the output
        projection."""
        graph = self._graph
        if block.has("attn_kv_a_mqa.weight"):
            attended = self._latent(block, source)
            then()
        else:
            attended = self._attend(block, *self._project(block, source))
            then()
            attended = self._rotate(attended, self._attended_width(block), block, "v")
        result = graph.rows(graph.n_embd, attended)
        return graph.over(result) if block.has("attn_output.bias") else result

    # Inputs -------------------------------------------------------------------------------------

    def _inputs(self, block: Block) -> None:
        """The mask of this layer's window, and where its keys and values go."""
        window = block.layer.window
        if window not in self._masks:
            graph, sizes = self._graph, self._graph.sizes
            self._rotation_inputs(block)
            keys = graph.input(8 * sizes.rows if block.layer.k_width else 0)
            width = 1 if sizes.flash else block.layer.v_width
            values = graph.input(8 * sizes.rows * width if block.layer.v_width else 0)
            mask = graph.input((2 if sizes.flash else 4) * self._cells(block) * sizes.rows)
            self._masks[window] = (mask, keys, values)

    def _rotation_inputs(self, block: Block) -> None:
        """Inputs lie in the order in which the graph first reads them, operands from left to
        right: the first matrix for keys and queries before the positions of what it turns."""
        graph, window = self._graph, block.layer.window
        if self._rotates(block.layer.head_dim) and block.layer.v_width:
            before = None if self._masks else graph.positions
            size = _rotation(block.layer.head_dim)
            self._rotations[window, "k"] = graph.input(4 * size**2, before)
        if self._rotates(self._value_dim(block)):
            self._rotations[window, "v"] = graph.input(4 * SMALLEST_ROTATION**2)

    def _cells(self, block: Block) -> int:
        """Cells a row may see."""
        sizes, window = self._graph.sizes, block.layer.window
        if not block.layer.k_width:
            return sizes.rows
        return sizes.cells if window is None else sizes.window_cells(window)

    # Query, key, value --------------------------------------------------------------------------

    def _project(self, block: Block, source: int) -> tuple[int, int, int]:
        graph, layer = self._graph, block.layer
        if block.has("attn_qkv.weight"):
            return self._split(block, graph.rows(block.width("attn_qkv.weight"), source))
        query = self._part(block, "q", layer.n_head * layer.head_dim, source)
        if self._value_before_key(block):
            value = self._part(block, "v", self._value_width(block), source)
            key = self._part(block, "k", self._key_width(block), source)
        else:
            key = self._part(block, "k", self._key_width(block), source)
            value = self._part(block, "v", self._value_width(block), source)
        return query, key, value

    def _part(self, block: Block, name: str, width: int, source: int) -> int:
        """A projection, its bias, its norm, its rotation by position: all but the first in
        place."""
        graph = self._graph
        part = graph.rows(width, source)
        if block.has(f"attn_{name}.bias"):
            part = graph.over(part)
        part = graph.view(part)
        if block.has(f"attn_{name}_norm.weight"):
            part = graph.over(graph.over(part))
        if name != "v" and self._turns:
            part = graph.over(part, graph.positions)
        return self._rotate(part, width, block, name)

    def _split(self, block: Block, fused: int) -> tuple[int, int, int]:
        """Views of one projection are not contiguous: rotating them by position copies them."""
        graph, layer = self._graph, block.layer
        if block.has("attn_qkv.bias"):
            fused = graph.over(fused)
        query = graph.rows(layer.n_head * layer.head_dim, graph.view(fused), graph.positions)
        value = graph.view(fused)
        key = graph.rows(self._key_width(block), graph.view(fused), graph.positions)
        query = self._rotate(query, layer.n_head * layer.head_dim, block, "q")
        value = self._rotate(value, self._value_width(block), block, "v")
        return query, self._rotate(key, self._key_width(block), block, "k"), value

    def _rotate(self, part: int, width: int, block: Block, name: str) -> int:
        """Before quantisation, heads are mixed by a Hadamard matrix (llama-kv-cache.cpp)."""
        rotation = self._rotations.get((block.layer.window, "v" if name == "v" else "k"))
        if rotation is None:
            return part
        graph = self._graph
        return graph.view(graph.rows(width, rotation, graph.view(part)))

    def _rotates(self, head_dim: int) -> bool:
        sizes = self._graph.sizes
        return sizes.rotates and head_dim > 0 and head_dim % SMALLEST_ROTATION == 0

    # The product --------------------------------------------------------------------------------

    def _attend(self, block: Block, query: int, key: int, value: int) -> int:
        graph, layer = self._graph, block.layer
        mask, keys, values = self._masks[layer.window]
        if not layer.k_width:
            key, value = self._half(block, key), self._half(block, value)
        else:
            graph.write(graph.view(key), keys)
            graph.write(graph.view(value), values)
            key = self._cast(block, block.layer.k_width, mask)
            value = self._cast(block, block.layer.v_width, mask)
        width = self._attended_width(block)
        if graph.sizes.flash:
            attended = graph.rows(width, graph.view(query), mask, key, value)
        else:
            attended = self._plain(block, query, mask, width)
        return graph.view(attended)

    def _cast(self, block: Block, width: int, otherwise: int) -> int:
        """Flash attention reads a float32 cache through an f16 copy of all its cells."""
        sizes = self._graph.sizes
        if not (sizes.flash and sizes.full_precision):
            return otherwise
        return self._graph.compute(2 * width * self._cells(block) * sizes.n_stream)

    def _plain(self, block: Block, query: int, mask: int, width: int) -> int:
        """Without flash attention the scores of all cells are written out."""
        graph = self._graph
        scores = 4 * self._cells(block) * graph.sizes.rows * block.layer.n_head
        product = graph.compute(scores, graph.view(query))
        weighted = graph.rows(width, graph.over(product, mask))
        return graph.rows(width, graph.view(weighted))

    def _half(self, block: Block, part: int) -> int:
        """Without a cache flash attention reads f16 copies."""
        graph, layer = self._graph, block.layer
        return graph.compute(2 * layer.n_head * layer.head_dim * graph.sizes.rows, graph.view(part))

    # Latent attention ---------------------------------------------------------------------------

    def _latent(self, block: Block, source: int) -> int:
        """Keys and values are one compressed vector; queries are brought to its space
        (src/models/deepseek2.cpp)."""
        graph, heads = self._graph, block.layer.n_head
        compressed = block.width("attn_k_b.weight")
        rope = block.width("attn_kv_a_mqa.weight") - compressed
        query = graph.view(self._latent_query(block, source))
        absorbed = graph.rows(compressed * heads, graph.view(query))
        turned = graph.rows(rope * heads, graph.view(query), graph.positions)
        query = graph.rows((compressed + rope) * heads, graph.view(absorbed), turned)
        key = self._latent_key(block, source, compressed, rope)
        mask, keys, _ = self._masks[block.layer.window]
        graph.write(graph.view(key), keys)
        attended = self._latent_product(block, query, mask, compressed)
        width = block.width("attn_v_b.weight") * heads
        decompressed = graph.rows(width, graph.view(attended))
        return graph.view(graph.rows(width, graph.view(decompressed)))

    def _latent_query(self, block: Block, source: int) -> int:
        graph = self._graph
        if block.has("attn_q_a.weight"):
            source = graph.norm(graph.rows(block.width("attn_q_a.weight"), source))
            return graph.rows(block.width("attn_q_b.weight"), source)
        return graph.rows(block.width("attn_q.weight"), source)

    def _latent_key(self, block: Block, source: int, compressed: int, rope: int) -> int:
        graph = self._graph
        both = graph.rows(compressed + rope, source)
        value = graph.over(graph.rows(compressed, graph.view(both)))
        turned = graph.rows(rope, graph.view(both), graph.positions)
        return graph.rows(compressed + rope, graph.view(value), turned)

    def _latent_product(self, block: Block, query: int, mask: int, compressed: int) -> int:
        graph, heads = self._graph, block.layer.n_head
        if graph.sizes.flash:
            key = self._cast(block, block.layer.k_width, mask)
            value = self._cast(block, compressed, mask)
            return graph.rows(compressed * heads, graph.view(query), mask, key, value)
        value = graph.compute(self._turned_bytes(block, compressed))
        scores = 4 * self._cells(block) * graph.sizes.rows * heads
        product = graph.over(graph.compute(scores, graph.view(query)), mask)
        return graph.rows(compressed * heads, product, value)

    def _turned_bytes(self, block: Block, width: int) -> int:
        """Values are stored with the keys, so plain attention turns a copy of all cells."""
        sizes = self._graph.sizes
        return (4 if sizes.full_precision else 2) * width * self._cells(block) * sizes.n_stream

    # Widths -------------------------------------------------------------------------------------

    def _key_width(self, block: Block) -> int:
        return block.layer.k_width or block.layer.n_head * block.layer.head_dim

    def _value_width(self, block: Block) -> int:
        return block.layer.v_width or block.layer.n_head * block.layer.head_dim

    def _value_dim(self, block: Block) -> int:
        """Values per head."""
        layer = block.layer
        if not layer.k_width or not layer.v_width:
            return 0 if layer.k_width else layer.head_dim
        return layer.v_width * layer.head_dim // layer.k_width

    def _attended_width(self, block: Block) -> int:
        return block.layer.n_head * self._value_dim(block)

    def _value_before_key(self, block: Block) -> bool:
        """build_attn expands query, value, key; with two caches (sliding window) query, key,
        value."""
        windows = {b.layer.window for b in self._graph.blocks if b.layer.k_width}
        return len(windows) == 1 and block.layer.window is None


def _rotation(width: int) -> int:
    """The size of the rotation: the largest power of two from 64 that divides a head."""
    size = SMALLEST_ROTATION
    while width % (2 * size) == 0:
        size *= 2
    return size
