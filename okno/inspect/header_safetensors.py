"""The header of a safetensors model as okno will serve it: with the tensors its GGUF will have.

A checkpoint of 16 or 32 bits keeps its type; GPTQ and AWQ layers become Q4_0 (symmetric), Q4_1 or
Q8_0, which hold the same values, experts in MXFP4 stay so; `file_bytes` is what the checkpoint has
now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing

from okno.core.errors import ModelNotFound, ModelUnusable
from okno.core.header import ModelHeader, TensorInfo
from okno.inspect.header_catalog import carried
from okno.inspect.header_quant import typed
from okno.inspect.header_shape import Sizes, sizes_of, values_of
from okno.inspect.header_tensors import KNOWN, tensors_of
from okno.inspect.header_values import header_of_values
from okno.inspect.safetensors import StoredTensor, Weights, read_json, read_weights
from okno.inspect.safetensors_config import Config, Quantised, quantised_of, shape_of
from okno.inspect.source import Source
from okno.inspect.source_open import CONFIG

EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")
OUTPUTS = ("lm_head.weight",)
MAX_PARAMS = 2**50  # of a model: a thousand times the largest
LEAST_SHARE = 0.97  # of the values a model of that shape has: less are missing


def header_of_safetensors(source: Source, name: str) -> ModelHeader:
    """The header of the model whose config.json or weights `source` is.

    Raises ModelUnusable, ModelNotFound (for a missing file).
    """
    where = source.where.removesuffix(source.name) + CONFIG
    config = Config(where, _sibling_json(source, CONFIG, needed=True))
    weights = read_weights(source)
    quantised = quantised_of(config, _sibling_json(source, "quantize_config.json"))
    is_tied = not _ending(weights, OUTPUTS)
    embedding = _ending(weights, EMBEDDINGS)
    n_vocab = embedding.shape[0] if embedding and len(embedding.shape) == 2 else None
    sizes = sizes_of(shape_of(config, n_vocab=n_vocab, is_tied=is_tied), name)
    tensors = _tensors(sizes, weights, quantised, source.where)
    return header_of_values(
        name,
        "safetensors",
        values_of(sizes, name),
        tensors,
        weights.file_bytes,
        n_tokens=sizes.n_vocab,
        file_type=quantised.name if quantised else _prevailing(weights),
        where=source.where,
    )


def _tensors(
    sizes: Sizes, weights: Weights, quantised: Quantised | None, where: str
) -> tuple[TensorInfo, ...]:
    """What the GGUF will have. Raises ModelUnusable when the weights do not suffice for it."""
    if sizes.architecture not in KNOWN:
        raise ModelUnusable(f"{where}: the tensors of {sizes.architecture} are not described.")
    shapes = tensors_of(sizes)
    if quantised is None:
        stored = _prevailing(weights)
        found = typed(shapes, stored, architecture=sizes.architecture, n_layer=sizes.n_layer)
    else:
        found = carried(shapes, _becomes(quantised))
    wanted = sum(tensor.n_values for tensor in found)
    there = sum(tensor.n_values for tensor in weights.tensors.values())
    if wanted > MAX_PARAMS or (quantised is None and there < LEAST_SHARE * wanted):
        raise ModelUnusable(
            f"{where} describes a model of {wanted} values, and its files hold {there}. Some are "
            "missing, or the configuration belongs to another model."
        )
    return found


def _becomes(quantised: Quantised) -> str:
    """The ggml type that holds the layers of a packed checkpoint."""
    if quantised.method == "MXFP4":
        return "MXFP4"
    if quantised.method == "FP8" or quantised.bits > 4:
        return "Q8_0"
    return "Q4_0" if quantised.is_symmetric and quantised.method == "GPTQ" else "Q4_1"


def _prevailing(weights: Weights) -> str:
    """F32, F16 or BF16: what most values are stored in."""
    counts: Counter[str] = Counter()
    for tensor in weights.tensors.values():
        counts[tensor.dtype] += tensor.n_values
    most = counts.most_common(1)[0][0] if counts else "F16"
    return most if most in ("F32", "BF16") else "F16"


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
