"""What is known of a model before it is loaded: its shape and its tensors, nothing else.

Filled from a GGUF header, from safetensors headers with their config.json, or from the catalog
(inspect/). Planning needs no more than this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

HeaderSource = Literal["gguf", "safetensors", "catalog"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A stored tensor. type: ggml's name (`Q4_0`, `F16`, ...). dimensions: ggml order, the input
    width (ne0) first. n_bytes: as stored."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    n_bytes: int

    @property
    def n_values(self) -> int:
        product = 1
        for size in self.dimensions:
            product *= size
        return product


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer keeps per token and per sequence.

    k_width, v_width: values of K and V kept per token (n_embd_k_gqa, n_embd_v_gqa in llama.cpp;
    0: no KV cache in this layer; MLA keeps K only). window: tokens its sliding window sees, None
    for full attention. state_width: values of recurrent state per sequence (n_embd_r + n_embd_s),
    always f32. n_head, head_dim: of the queries, for the cost of attention.
    """

    n_head: int = 0
    head_dim: int = 0
    k_width: int = 0
    v_width: int = 0
    window: int | None = None
    state_width: int = 0


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """A model's shape. Lengths in tokens, widths in values.

    n_expert, n_expert_used: 0 for a dense model. file_type: the prevailing number format (`Q4_0`,
    `Q4_K_M`, `F16`). file_bytes: the stored size, all shards. metadata: scalar values of the header
    by their GGUF keys (strings, numbers, flags; short numeric arrays as tuples). n_tokens: entries
    of the vocabulary.
    """

    name: str
    source: HeaderSource
    architecture: str
    n_layer: int
    n_embd: int
    n_vocab: int
    ctx_train: int
    layers: tuple[Layer, ...]
    tensors: tuple[TensorInfo, ...]
    file_type: str
    file_bytes: int
    n_expert: int = 0
    n_expert_used: int = 0
    is_embedding_model: bool = False
    metadata: dict[str, str | int | float | bool | tuple[int | float | bool, ...]] = field(
        default_factory=dict
    )

    @property
    def n_params(self) -> int:
        return sum(tensor.n_values for tensor in self.tensors)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def is_recurrent(self) -> bool:
        """Some layer keeps a state that cannot be rolled back."""
        return any(layer.state_width for layer in self.layers)

    @property
    def shares_prefixes(self) -> bool:
        """Plain attention only: prefixes can be shared and sequences cut anywhere."""
        return not self.is_recurrent and all(layer.window is None for layer in self.layers)
