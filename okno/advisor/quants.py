"""The same model in another number format, from its header alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from okno.core.errors import OknoError
from okno.core.header import ModelHeader, TensorInfo
from okno.inspect.header_catalog import CARRIED, canonical_quant, carried
from okno.inspect.header_quant import typed

FINEST_FIRST = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
DEFAULT_QUANT = "Q4_K_M"


def requantised(header: ModelHeader, quant: str) -> ModelHeader:
    """`header` with its tensors typed as llama-quantize would for `quant`. Scale factors and the
    like stay as they are. Raises BadSetting for an unknown quantisation."""
    name = canonical_quant(quant)
    shapes = [(tensor.name, tensor.dimensions) for tensor in header.tensors]
    tensors = carried(shapes, CARRIED[name.upper()]) if name.upper() in CARRIED else typed(
        shapes, name, architecture=header.architecture, n_layer=header.n_layer,
        n_gqa=_n_gqa(header), n_expert=header.n_expert,
    )  # fmt: skip
    return _with_tensors(header, name, tensors)


def finer_first(header: ModelHeader) -> Iterator[ModelHeader]:
    """The formats below the header's own, finest first."""
    for quant in FINEST_FIRST:
        try:
            other = requantised(header, quant)
        except (OknoError, KeyError):  # tensors of a shape or type the rules do not know
            continue
        if other.weights_bytes < header.weights_bytes:
            yield other


def _with_tensors(header: ModelHeader, name: str, tensors: tuple[TensorInfo, ...]) -> ModelHeader:
    rest = max(0, header.file_bytes - header.weights_bytes)
    n_bytes = sum(tensor.n_bytes for tensor in tensors)
    return replace(header, tensors=tensors, file_type=name, file_bytes=n_bytes + rest)


def _n_gqa(header: ModelHeader) -> int:
    """Query heads per KV head of the first layer that has both."""
    for layer in header.layers:
        if layer.k_width and layer.head_dim:
            return max(1, layer.n_head * layer.head_dim // layer.k_width)
    return 0
