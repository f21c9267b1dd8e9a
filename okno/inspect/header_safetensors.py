"""The header of a safetensors model as okno will serve it: with the tensors its GGUF will have.

A checkpoint of 16 or 32 bits keeps its type; GPTQ and AWQ layers become Q4_0 (symmetric), Q4_1 or
Q8_0, which hold the same values, experts in MXFP4 stay so; `file_bytes` is what the checkpoint has
now. Conversion (okno/convert) writes what is described here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from okno.core.errors import ModelNotFound, ModelUnusable
from okno.core.header import ModelHeader, TensorInfo
from okno.inspect.gguf import Value
from okno.inspect.header_catalog import carried, typed_as
from okno.inspect.header_shape import Sizes, sizes_of, values_of
from okno.inspect.header_tensors import KNOWN, Tensor, tensors_of
from okno.inspect.header_values import header_of_values
from okno.inspect.safetensors import StoredTensor, Weights, read_json, read_weights
from okno.inspect.safetensors_config import Config, Quantised, quantised_of, shape_of
from okno.inspect.safetensors_rope import Rope, factor_tensors, rope_of
from okno.inspect.source import Source
from okno.inspect.source_open import CONFIG

EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")
OUTPUTS = ("lm_head.weight",)
MAX_PARAMS = 2**50  # of a model: a thousand times the largest
# What is not of the language model where it is part of a larger one.
OTHER_PARTS = (
    "vision_tower.", "vision_model.", "multi_modal_projector.", "model.vision_tower.",
    "model.vision_model.", "model.multi_modal_projector.", "model.visual.", "visual.",
)  # fmt: skip
LEAST_SHARE = 0.97  # of the values a model of that shape has: less are missing
# Biases that the engine adds where they are (llama.cpp, src/models; create_tensor_qkv), by the
# layers' names in a checkpoint.
BIAS = re.compile(r"layers\.(\d{1,3})\.(?:self_attn|mlp)\.(\w+)_proj\.bias$")
BIAS_NAMES = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate",
    "up": "ffn_up", "down": "ffn_down", "qkv": "attn_qkv",
}  # fmt: skip
OPTIONAL_BIAS = {
    "llama": ("q", "k", "v", "o", "gate", "up", "down"), "gemma2": ("q", "k", "v"),
    "gemma3": ("q", "k", "v"), "phi3": ("qkv",), "qwen2": (), "qwen3": ("q", "k", "v"),
    "qwen3moe": ("q", "k", "v"), "smollm3": ("q", "k", "v"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Described:
    """A safetensors model by its headers and config.json. values: of the GGUF it becomes, as far as
    they say how large it is; shapes: that GGUF's tensors, by blocks, without types."""

    name: str
    where: str
    config: Config
    quantize_config: Mapping[str, object]
    weights: Weights
    quantised: Quantised | None
    sizes: Sizes
    rope: Rope
    values: dict[str, Value]
    shapes: tuple[Tensor, ...]

    @property
    def prevailing(self) -> str:
        """F32, F16 or BF16: what most values are stored in."""
        return _prevailing(self.weights)

    def tensors(self) -> tuple[TensorInfo, ...]:
        """What the GGUF will have. Raises ModelUnusable when the weights do not suffice for it."""
        return _tensors(self)


def header_of_safetensors(source: Source, name: str) -> ModelHeader:
    """The header of the model whose config.json or weights `source` is.

    Raises ModelUnusable, ModelNotFound (for a missing file).
    """
    found = describe(source, name)
    return header_of_values(
        name,
        "safetensors",
        found.values,
        found.tensors(),
        found.weights.file_bytes,
        n_tokens=found.sizes.n_vocab,
        file_type=found.quantised.name if found.quantised else found.prevailing,
        where=source.where,
    )


def describe(source: Source, name: str) -> Described:
    """What the headers and config.json beside `source` say. Raises as header_of_safetensors."""
    where = source.where.removesuffix(source.name) + CONFIG
    config = Config(where, _sibling_json(source, CONFIG, needed=True))
    weights = read_weights(source)
    separate = _sibling_json(source, "quantize_config.json")
    embedding = _ending(weights, EMBEDDINGS)
    n_vocab = embedding.shape[0] if embedding and len(embedding.shape) == 2 else None
    is_tied = not _ending(weights, OUTPUTS) or config.flag("tie_word_embeddings") is True
    shape = shape_of(config, n_vocab=n_vocab, is_tied=is_tied)
    rope = rope_of(config, shape.head_dim or (shape.n_embd or 0) // (shape.n_head or 1))
    sizes = sizes_of(shape_of(config, n_vocab=n_vocab, is_tied=is_tied, rope_base=rope.base), name)
    if sizes.architecture not in KNOWN:
        raise ModelUnusable(f"{where}: the tensors of {sizes.architecture} are not described.")
    # AutoGPTQ adds a bias of zeros to every layer it packs
    has_none = bool(separate or config.part("quantization_config")) and not (
        config.flag("attention_bias") or config.flag("mlp_bias")
    )
    shapes = [*tensors_of(sizes), *factor_tensors(rope, sizes.architecture)]
    return Described(
        name=name,
        where=source.where,
        config=config,
        quantize_config=separate,
        weights=weights,
        quantised=quantised_of(config, separate),
        sizes=sizes,
        rope=rope,
        values=values_of(sizes, name) | _sliding(config, sizes),
        shapes=(*shapes, *(() if has_none else _biases(weights, sizes, {n for n, _ in shapes}))),
    )


def _tensors(model: Described) -> tuple[TensorInfo, ...]:
    if model.quantised is None:
        found = typed_as(model.sizes, list(model.shapes), model.prevailing)
    else:
        kind, anew = _becomes(model.quantised), _anew(model.quantised)
        rest = "F16" if kind == "MXFP4" else model.prevailing
        found = carried(list(model.shapes), kind, anew, rest)
    wanted = sum(tensor.n_values for tensor in found)
    there = sum(tensor.n_values for tensor in model.weights.tensors.values())
    if wanted > MAX_PARAMS or (model.quantised is None and there < LEAST_SHARE * wanted):
        raise ModelUnusable(
            f"{model.where} describes a model of {wanted} values, and its files hold {there}. Some "
            "are missing, or the configuration belongs to another model."
        )
    return found


def _biases(weights: Weights, sizes: Sizes, known: Iterable[str]) -> Iterator[Tensor]:
    """Biases of linear layers that not every model of the family has."""
    if sizes.architecture not in OPTIONAL_BIAS:
        return
    for name, stored in weights.tensors.items():
        if name.startswith(OTHER_PARTS):
            continue
        if (match := BIAS.search(name)) and match[2] in OPTIONAL_BIAS[sizes.architecture]:
            target = f"blk.{match[1]}.{BIAS_NAMES[match[2]]}.bias"
            if target not in known and int(match[1]) < sizes.n_layer:
                yield target, stored.shape


def _sliding(config: Config, sizes: Sizes) -> dict[str, Value]:
    """Which layers see a window only, where the configuration lists them."""
    if sizes.architecture not in ("gemma2", "gemma3") or not sizes.window:
        return {}
    key = f"{sizes.architecture}.attention.sliding_window_pattern"
    listed = config.texts("layer_types")
    if len(listed) == sizes.n_layer:
        return {key: tuple(kind == "sliding_attention" for kind in listed)}
    period = config.number("sliding_window_pattern", "_sliding_window_pattern")
    return {key: period} if period else {}


def _becomes(quantised: Quantised) -> str:
    """The ggml type that holds the layers of a packed checkpoint."""
    if quantised.method == "MXFP4":
        return "MXFP4"
    if quantised.method == "FP8" or quantised.bits > 4:
        return "Q8_0"
    is_plain = quantised.is_symmetric or quantised.bits < 4
    return "Q4_0" if is_plain and quantised.method == "GPTQ" else "Q4_1"


def _anew(quantised: Quantised) -> str | None:
    """The type of layers whose inputs no other layer can put in order: what convert/repack.py
    finds for weights as they usually are. None: there are no such layers."""
    if not quantised.act_order or quantised.method != "GPTQ":
        return None
    return {2: "Q4_K", 3: "Q5_K", 4: "Q6_K"}.get(quantised.bits)


def _prevailing(weights: Weights) -> str:
    """F32, F16 or BF16: what most values are stored in that are not packed."""
    counts: Counter[str] = Counter()
    for name, tensor in weights.tensors.items():
        if tensor.dtype in ("F32", "F16", "BF16") and not name.endswith(".scales"):
            counts[tensor.dtype] += tensor.n_values
    return counts.most_common(1)[0][0] if counts else "F16"


def _ending(weights: Weights, ends: tuple[str, ...]) -> StoredTensor | None:
    return next((t for name, t in weights.tensors.items() if name.endswith(ends)), None)


def _sibling_json(source: Source, name: str, *, needed: bool = False) -> Mapping[str, object]:
    if source.name == name:
        return read_json(source)
    try:
        found = source.sibling(name)
    except ModelNotFound:
        if needed:
            raise
        return {}
    with closing(found):
        return read_json(found)
