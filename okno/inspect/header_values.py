"""A ModelHeader from the values and tensors of a file, or from those a file would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from okno.core.errors import ModelUnusable
from okno.core.header import HeaderSource, ModelHeader, TensorInfo
from okno.inspect.gguf import Value
from okno.inspect.gguf_types import FILE_TYPES, prevailing_type
from okno.inspect.header_keys import Keys
from okno.inspect.header_layers import layers_of

POOLING_NONE = 0  # LLAMA_POOLING_TYPE_NONE


def header_of_values(
    name: str,
    source: HeaderSource,
    values: Mapping[str, Value],
    tensors: Sequence[TensorInfo],
    file_bytes: int,
    *,
    n_tokens: int = 0,
    file_type: str | None = None,
    where: str = "",
) -> ModelHeader:
    """A header from GGUF values and a table of tensors, wherever these come from.

    n_tokens: entries of the vocabulary, 0 when not known; file_type: when the values do not say
    it. Raises ModelUnusable.
    """
    keys = Keys(where or name, values, _architecture(where or name, values))
    tensors = tuple(tensors)
    return ModelHeader(
        name=name,
        source=source,
        architecture=keys.architecture,
        n_layer=keys.n_layer,
        n_embd=keys.needed("embedding_length"),
        n_vocab=n_tokens or keys.number("vocab_size") or _embedded_tokens(tensors),
        ctx_train=keys.needed("context_length"),
        layers=layers_of(keys),
        tensors=tensors,
        file_type=file_type or _file_type(values, tensors),
        file_bytes=file_bytes,
        n_expert=keys.number("expert_count"),
        n_expert_used=max(keys.per_layer("expert_used_count")),
        is_embedding_model=_is_embedding_model(keys),
        metadata=dict(values),
    )


def _architecture(where: str, values: Mapping[str, Value]) -> str:
    found = values.get("general.architecture")
    if not isinstance(found, str) or not found:
        raise ModelUnusable(f"The header of {where} names no architecture. It is no model file.")
    if found == "clip" or values.get("general.type") in ("mmproj", "adapter", "imatrix"):
        raise ModelUnusable(
            f"{where} is not a language model but an addition to one (an image projector, adapter "
            "or the like). Give the file of the model itself."
        )
    return found


def _embedded_tokens(tensors: tuple[TensorInfo, ...]) -> int:
    for tensor in tensors:
        if tensor.name == "token_embd.weight" and len(tensor.dimensions) > 1:
            return tensor.dimensions[1]
    return 0


def _file_type(values: Mapping[str, Value], tensors: tuple[TensorInfo, ...]) -> str:
    """What the file says of itself, else the type most of its bytes are of."""
    said = values.get("general.file_type")
    if isinstance(said, int) and said in FILE_TYPES:
        return FILE_TYPES[said]
    return prevailing_type(tensors)


def _is_embedding_model(keys: Keys) -> bool:
    causal = keys.values.get(keys.full("attention.causal"), True)
    return keys.number("pooling_type", POOLING_NONE) != POOLING_NONE or not causal
