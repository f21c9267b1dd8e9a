"""The header a catalog model would have in a given quantisation, for planning before download."""

from __future__ import annotations

import re

from okno.core.errors import BadSetting, ModelUnusable
from okno.core.header import ModelHeader, TensorInfo
from okno.inspect.catalog import CatalogModel
from okno.inspect.gguf import Value
from okno.inspect.gguf_types import BY_NAME, FILE_TYPES, tensor_bytes
from okno.inspect.header_gemma import ARCHITECTURES, gemma_tensors, gemma_values
from okno.inspect.header_quant import DEFAULTS, Shape, typed
from okno.inspect.header_shape import Sizes, sizes_of, values_of
from okno.inspect.header_tensors import KNOWN, tensors_of
from okno.inspect.header_values import header_of_values

# Bytes of a header for each token of the vocabulary: text, type, and score or merges.
SCORED_TOKEN_BYTES, MERGED_TOKEN_BYTES = 24, 58
SCORED_VOCAB = 33_000  # Llama 2, Mistral and Phi-3 have SentencePiece vocabularies of 32,000
# What people call a format that a file type stands for.
SPELLINGS = {
    "MXFP4": "MXFP4_MOE", "8BIT": "Q8_0", "INT8": "Q8_0", "4BIT": "Q4_K_M", "INT4": "Q4_K_M",
    "FP16": "F16", "FP32": "F32", "HALF": "F16", "GPTQ": "GPTQ-4BIT", "AWQ": "AWQ-4BIT",
    "GPTQ-INT4": "GPTQ-4BIT", "GPTQ-INT8": "GPTQ-8BIT", "Q4": "Q4_0", "Q8": "Q8_0",
    "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M",
}  # fmt: skip
# Checkpoints carried over as they are: their linear layers keep their 4 or 8 bits, embeddings and
# output stay in 16.
CARRIED = {"GPTQ-4BIT": "Q4_0", "AWQ-4BIT": "Q4_1", "GPTQ-8BIT": "Q8_0"}
NUMBERS = {name: number for number, name in FILE_TYPES.items()}


def quantisations() -> tuple[str, ...]:
    """The names that `header_of_catalog` takes."""
    return (*DEFAULTS, "GPTQ-4bit", "GPTQ-8bit", "AWQ-4bit")


def header_of_catalog(model: CatalogModel, quant: str) -> ModelHeader:
    """The header of `model` stored as `quant`: tensors as llama-quantize would type them.

    Raises BadSetting for an unknown quantisation, ModelUnusable when the shape is not known.
    """
    name = canonical_quant(quant)
    sizes = sizes_of(model.shape, model.id)
    if sizes.architecture not in KNOWN | ARCHITECTURES:
        raise ModelUnusable(
            f"{model.id} cannot be planned without its file: the tensors of its architecture "
            f"({sizes.architecture}) are not described. Give a GGUF file or its address instead."
        )
    is_gemma = sizes.architecture in ARCHITECTURES
    shapes = list(gemma_tensors(sizes)) if is_gemma else tensors_of(sizes)
    tensors = (
        carried(shapes, CARRIED[name.upper()])
        if name.upper() in CARRIED
        else typed_as(sizes, shapes, name)
    )
    own = {f"{sizes.architecture}.{key}": value for key, value in gemma_values(sizes).items()}
    values = values_of(sizes, model.name) | (own if is_gemma else {}) | _format_values(name)
    stored = sum(tensor.n_bytes for tensor in tensors)
    return header_of_values(
        model.name,
        "catalog",
        values,
        tensors,
        stored + _token_bytes(sizes) * sizes.n_vocab,
        n_tokens=sizes.n_vocab,
        file_type=name,
        where=model.id,
    )


def canonical_quant(quant: str) -> str:
    """The name of a quantisation however it is spelled: `q4_k_m`, `gptq-4bit`, `8bit`.

    Raises BadSetting with the possible names.
    """
    asked = re.sub(r"^(UD|I1)[-_]", "", quant.strip().upper())[:40]
    asked = re.sub(r"_XL$", "_M", asked)
    by_upper = {name.upper(): name for name in quantisations()}
    plain = re.sub(r"_[SML]$", "", asked)
    for spelling in (asked, SPELLINGS.get(asked, ""), asked.replace("-", "_"), plain):
        if spelling in by_upper:
            return by_upper[spelling]
    names = ", ".join(quantisations())
    raise BadSetting(f"There is no quantisation {quant[:40]!r}. Possible: {names}.", param="quant")


def carried(
    shapes: list[Shape], kind: str, unordered: str | None = None, rest: str = "F16"
) -> tuple[TensorInfo, ...]:
    """The tensors of a GPTQ or AWQ checkpoint: layers of `kind` (MXFP4: experts alone), the others
    of the type `rest`, norms in F32. unordered: of layers whose columns are in no order of groups,
    which are all but down projections; Q8_0 where a row is no whole number of its blocks."""
    found = []
    for tensor in typed(shapes, "F16", architecture="", n_layer=1):
        layer = tensor.name.startswith("blk.") and tensor.type == "F16"
        layer = layer and (kind != "MXFP4" or len(tensor.dimensions) > 2)
        wanted = kind
        if unordered is not None and ".ffn_down" not in tensor.name:
            whole = tensor.dimensions[0] % BY_NAME[unordered].block_values == 0
            wanted = unordered if whole else "Q8_0"
        fits = layer and tensor.dimensions[0] % BY_NAME[wanted].block_values == 0
        stored = BY_NAME[wanted if fits else rest if tensor.type == "F16" else "F32"]
        size = tensor_bytes(stored, tensor.dimensions)
        found.append(TensorInfo(tensor.name, stored.name, tensor.dimensions, size))
    return tuple(found)


def typed_as(sizes: Sizes, shapes: list[Shape], file_type: str) -> tuple[TensorInfo, ...]:
    """The tensors of a model of these sizes as llama-quantize would store them."""
    heads = 1 if sizes.mla else sizes.n_head_kv if sizes.attends[0] else 0
    return typed(
        shapes,
        file_type,
        architecture=sizes.architecture,
        n_layer=sizes.n_layer,
        n_gqa=sizes.n_head // heads if heads else 0,
        n_expert=sizes.moe.n_expert if sizes.moe else 0,
    )


def _token_bytes(sizes: Sizes) -> int:
    """Estimated; a header is below 1 % of all but the smallest files."""
    is_scored = sizes.n_vocab <= SCORED_VOCAB or sizes.architecture.startswith(("gemma", "bert"))
    return SCORED_TOKEN_BYTES if is_scored else MERGED_TOKEN_BYTES


def _format_values(name: str) -> dict[str, Value]:
    kind = CARRIED.get(name.upper(), name)
    return {"general.file_type": NUMBERS[kind], "general.quantization_version": 2}
