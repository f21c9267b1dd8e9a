"""What one step of a model has to do, counted from its header: products, operations, attention."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from okno.core.header import Layer, ModelHeader, TensorInfo

# Tables that are only looked up: a row costs nothing, whatever their size.
LOOKED_UP = ("token_embd", "embed_tokens", "position_embd", "token_types", "rope_freqs",
             "rope_factors", "per_layer_token_embd", "wpe.", "wte.")  # fmt: skip
OUTPUT = ("output.weight", "lm_head.weight", "cls.output.weight")
EMBEDDING = ("token_embd.weight", "embed_tokens.weight", "model.embed_tokens.weight")
# Operations of a layer beside its products and norms: rope and store of K and V, attention, two
# residual sums, the gate (llama.cpp, src/llama-graph.cpp).
OPS_PER_LAYER = 8


@dataclass(frozen=True, slots=True)
class Experts:
    """Matrices of `type` of which each row uses n_used in n_expert: weights of all experts."""

    type: str
    n_weights: int
    n_expert: int
    n_used: int


@dataclass(frozen=True, slots=True)
class AttentionLayers:
    """`count` layers alike. head_dim: mean of K's and V's width per head; window as in Layer."""

    count: int
    n_head: int
    n_head_kv: int
    head_dim: float
    window: int | None


@dataclass(frozen=True, slots=True)
class Matrices:
    """Matrices that the same rows pass through. weights: of dense ones, by ggml type.
    inverse_widths: of each type the mean of 1 / inputs over its weights. activations: values in
    and out of all of them, per row."""

    weights: dict[str, int]
    inverse_widths: dict[str, float]
    experts: tuple[Experts, ...]
    activations: int


@dataclass(frozen=True, slots=True)
class Work:
    """every_row: the matrices of all rows of a step. output_rows: those only rows with logits pass:
    the output matrix, and of the last layer all behind its attention (llama.cpp, src/models/*.cpp,
    inp_out_ids). state: values of recurrent state."""

    every_row: Matrices
    output_rows: Matrices
    attention: tuple[AttentionLayers, ...]
    ops: int
    state: int
    n_vocab: int


def work_of(header: ModelHeader) -> Work:
    """Count the work of a step of `header`'s model."""
    output = _output(header)
    matrices = [t for t in header.tensors if _is_matrix(t) and t is not output]
    late = [t for t in matrices if _behind_attention(t, header)]
    early = [t for t in matrices if not _behind_attention(t, header)]
    return Work(
        every_row=_matrices(header, early),
        output_rows=_matrices(header, late + ([output] if output else [])),
        attention=_attention(header.layers),
        ops=len(header.tensors) + OPS_PER_LAYER * header.n_layer,
        state=sum(layer.state_width for layer in header.layers),
        n_vocab=header.n_vocab,
    )


def _behind_attention(tensor: TensorInfo, header: ModelHeader) -> bool:
    if header.is_embedding_model or not tensor.name.startswith(f"blk.{header.n_layer - 1}."):
        return False
    return "attn_output" in tensor.name or ".ffn_" in tensor.name


def _matrices(header: ModelHeader, tensors: list[TensorInfo]) -> Matrices:
    dense = [t for t in tensors if not _is_expert(t)]
    mixed = [t for t in tensors if _is_expert(t)]
    return Matrices(
        weights=_by_type(dense),
        inverse_widths=_inverse_widths(dense),
        experts=tuple(_experts(header, mixed)),
        activations=sum(map(_width, dense)) + _expert_width(header, mixed),
    )


def _is_matrix(tensor: TensorInfo) -> bool:
    long = [size for size in tensor.dimensions if size > 1]
    return (
        len(long) >= 2
        and tensor.name.endswith("weight")
        and "conv" not in tensor.name
        and not any(name in tensor.name for name in LOOKED_UP)
    )


def _is_expert(tensor: TensorInfo) -> bool:
    return "_exps" in tensor.name or ".experts." in tensor.name


def _output(header: ModelHeader) -> TensorInfo | None:
    """The output matrix; the token embedding when the model has no other (tied)."""
    if header.is_embedding_model:
        return None
    for names in (OUTPUT, EMBEDDING):
        for tensor in header.tensors:
            if tensor.name in names and len(tensor.dimensions) >= 2:
                return tensor
    return None


def _by_type(tensors: list[TensorInfo]) -> dict[str, int]:
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.type.upper()] += tensor.n_values
    return dict(weights)


def _inverse_widths(tensors: list[TensorInfo]) -> dict[str, float]:
    outputs: Counter[str] = Counter()
    for tensor in tensors:
        outputs[tensor.type.upper()] += tensor.n_values // max(1, tensor.dimensions[0])
    return {type: outputs[type] / weights for type, weights in _by_type(tensors).items()}


def _width(tensor: TensorInfo) -> int:
    """Values that go in and out, per row."""
    return tensor.dimensions[0] + tensor.n_values // max(1, tensor.dimensions[0])


def _expert_width(header: ModelHeader, tensors: list[TensorInfo]) -> int:
    experts = max(1, header.n_expert)
    ins = sum(t.dimensions[0] for t in tensors)
    outs = sum(t.n_values // max(1, t.dimensions[0]) // experts for t in tensors)
    return (ins + outs) * max(1, header.n_expert_used)


def _experts(header: ModelHeader, matrices: list[TensorInfo]) -> list[Experts]:
    used = max(1, header.n_expert_used)
    return [
        Experts(type, n_weights, max(used, header.n_expert), used)
        for type, n_weights in _by_type(matrices).items()
    ]


def _attention(layers: tuple[Layer, ...]) -> tuple[AttentionLayers, ...]:
    alike = Counter(
        (layer.n_head, _n_head_kv(layer), _head_dim(layer), layer.window)
        for layer in layers
        if layer.k_width and layer.n_head
    )
    return tuple(AttentionLayers(n, *key) for key, n in alike.items())


def _n_head_kv(layer: Layer) -> int:
    is_latent = not layer.v_width or not layer.head_dim
    return 1 if is_latent else max(1, layer.k_width // layer.head_dim)


def _head_dim(layer: Layer) -> float:
    """MLA keeps one latent vector as both K and V, and every head walks it whole."""
    return float(layer.head_dim if layer.v_width else layer.k_width)
