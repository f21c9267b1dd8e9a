"""Small models with random weights for calibration, written in a moment.

One piece of random weights is quantised by ggml itself and repeated over every tensor: what a
product costs does not depend on the values, and quantising all of them would take longer than the
measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from okno.bench.gguf_writer import StoredTensor, Value, write_gguf
from okno.convert.quantise import quantise_rows
from okno.inspect.gguf_types import BY_NAME, GgmlType, tensor_bytes

PIECE_VALUES = 1 << 20
N_VOCAB = 32  # the output matrix is F32: few rows, that it takes no time worth counting


@dataclass(frozen=True, slots=True)
class Block:
    """A Llama of n_layer layers. type: ggml's name, of every matrix. n_expert: of a mixture, of
    which n_expert_used compute."""

    type: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_expert: int = 0
    n_expert_used: int = 0

    @property
    def matrices(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and dimensions (input width first) of the matrices of one layer."""
        q, kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        attention: list[tuple[str, tuple[int, ...]]] = [
            ("attn_q", (self.n_embd, q)),
            ("attn_k", (self.n_embd, kv)),
            ("attn_v", (self.n_embd, kv)),
            ("attn_output", (q, self.n_embd)),
        ]
        experts = (self.n_expert,) if self.n_expert else ()
        suffix = "_exps" if self.n_expert else ""
        return [
            *attention,
            (f"ffn_gate{suffix}", (self.n_embd, self.n_ff, *experts)),
            (f"ffn_up{suffix}", (self.n_embd, self.n_ff, *experts)),
            (f"ffn_down{suffix}", (self.n_ff, self.n_embd, *experts)),
        ]

    @property
    def n_weights(self) -> int:
        """Weights in the matrices of all layers."""
        return self.n_layer * sum(int(np.prod(size)) for _, size in self.matrices)


def write_block(block: Block, path: Path) -> None:
    """Write the model to `path`."""
    write_gguf(path, _metadata(block), list(_tensors(block)))


def _metadata(block: Block) -> dict[str, Value]:
    sizes: dict[str, Value] = {
        "context_length": 1 << 20, "embedding_length": block.n_embd,
        "block_count": block.n_layer, "feed_forward_length": block.n_ff,
        "attention.head_count": block.n_head, "attention.head_count_kv": block.n_head_kv,
        "attention.key_length": block.head_dim, "attention.value_length": block.head_dim,
        "rope.dimension_count": block.head_dim, "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": N_VOCAB,
    }  # fmt: skip
    if block.n_expert:
        sizes |= {"expert_count": block.n_expert, "expert_used_count": block.n_expert_used}
    return {
        "general.architecture": "llama",
        "general.name": "okno calibration",
        "tokenizer.ggml.model": "no_vocab",
        **{f"llama.{key}": value for key, value in sizes.items()},
    }


def _tensors(block: Block) -> Iterator[StoredTensor]:
    kind = BY_NAME[block.type]
    yield _matrix("token_embd.weight", (block.n_embd, N_VOCAB), BY_NAME["F32"])
    yield _norm("output_norm.weight", block.n_embd)
    for layer in range(block.n_layer):
        name = f"blk.{layer}"
        yield _norm(f"{name}.attn_norm.weight", block.n_embd)
        yield _norm(f"{name}.ffn_norm.weight", block.n_embd)
        if block.n_expert:
            yield _matrix(f"{name}.ffn_gate_inp.weight", (block.n_embd, block.n_expert),
                          BY_NAME["F32"])  # fmt: skip
        for matrix, dimensions in block.matrices:
            yield _matrix(f"{name}.{matrix}.weight", dimensions, kind)


def _norm(name: str, width: int) -> StoredTensor:
    content = np.ones(width, np.float32).tobytes()
    return StoredTensor(name, (width,), BY_NAME["F32"].number, len(content),
                        lambda: iter((content,)))  # fmt: skip


def _matrix(name: str, dimensions: tuple[int, ...], kind: GgmlType) -> StoredTensor:
    n_bytes = tensor_bytes(kind, dimensions)
    return StoredTensor(name, dimensions, kind.number, n_bytes, lambda: _repeated(kind, n_bytes))


def _repeated(kind: GgmlType, n_bytes: int) -> Iterator[memoryview]:
    piece = memoryview(_piece(kind.name))
    while n_bytes:
        part = piece[: min(len(piece), n_bytes)]
        yield part
        n_bytes -= len(part)


@cache
def _piece(type: str) -> bytes:
    """Random weights of a scale that keeps activations near 1, as stored."""
    kind = BY_NAME[type]
    values = np.random.default_rng(0).standard_normal(PIECE_VALUES, np.float32) * np.float32(0.02)
    return quantise_rows(values[None], kind.name).tobytes()
