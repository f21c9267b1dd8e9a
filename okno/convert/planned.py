"""What a conversion will write, decided before a byte of it: every tensor, its type, its
sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from okno.convert.checkpoint import DTYPES, Checkpoint
from okno.convert.families import Family, family_of
from okno.convert.layout import FACTORS, Target, layout
from okno.convert.packed_targets import PackedTarget, packed_targets
from okno.convert.wants import Wants
from okno.core.errors import ModelUnusable
from okno.core.header import TensorInfo
from okno.inspect.gguf_types import BY_NAME, tensor_bytes
from okno.inspect.header_catalog import typed_as
from okno.inspect.header_tensors import Tensor

FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Planned:
    """tensors and targets: of the GGUF, in the same order. packed: by name, of targets made of
    packed layers."""

    family: Family
    targets: tuple[Target, ...]
    tensors: tuple[TensorInfo, ...]
    packed: Mapping[str, PackedTarget]

    @property
    def n_params(self) -> int:
        return sum(tensor.n_values for tensor in self.tensors)


def planned(checkpoint: Checkpoint, wants: Wants) -> Planned:
    """wants: of a packed checkpoint only what gains something (okno/inspect/fewer_bits.py).

    Raises ModelUnusable for a checkpoint that cannot be converted, with what to do."""
    model = checkpoint.described
    if model.quantised is not None and model.quantised.method not in ("GPTQ", "AWQ"):
        raise ModelUnusable(
            f"{model.where} packs its weights as {model.quantised.name}, which cannot be converted "
            "yet; GPTQ and AWQ can. Give the checkpoint it was packed from, or a GGUF file of it."
        )
    family = family_of(model)
    targets = layout(model, family, model.shapes, is_zero=lambda name: _is_zero(checkpoint, name))
    types = _types(checkpoint, targets, list(model.shapes), wants)
    packed = packed_targets(checkpoint, targets, types if wants.file_type else {})
    types |= {name: target.ggml_type for name, target in packed.items()}
    tensors = []
    for target in targets:
        kind = BY_NAME[types[target.name]]
        size = tensor_bytes(kind, target.dimensions)
        tensors.append(TensorInfo(target.name, kind.name, target.dimensions, size))
    return Planned(family, targets, tuple(tensors), packed)


def _types(
    checkpoint: Checkpoint, targets: tuple[Target, ...], shapes: list[Tensor], wants: Wants
) -> dict[str, str]:
    """As stored, except what the engine has in 32 bits only; or as wanted."""
    wanted = wants.file_type
    rules = typed_as(checkpoint.described.sizes, shapes, wanted or "F16")
    if wanted is not None:
        return {tensor.name: tensor.type for tensor in rules}
    free = {tensor.name for tensor in rules if tensor.type == "F16"}
    return {
        target.name: _stored_type(checkpoint, target) if target.name in free else "F32"
        for target in targets
    }


def _stored_type(checkpoint: Checkpoint, target: Target) -> str:
    """The type of all its pieces, or one that holds them all."""
    if target.name in FACTORS or any(piece.is_packed for piece in target.pieces):
        return "F32"
    kinds = {checkpoint.tensors[piece.source].dtype for piece in target.pieces}
    odd = next((kind for kind in sorted(kinds) if kind not in FLOATS), None)
    if odd is not None:
        source = target.pieces[0].source
        raise ModelUnusable(
            f"{checkpoint.folder} stores {source!r} as {odd}, which cannot be converted; F32, F16 "
            "and BF16 can, and GPTQ and AWQ layers. Get the model in one of these, or as GGUF."
        )
    return kinds.pop() if len(kinds) == 1 and kinds <= {"F32", "F16", "BF16"} else "F32"


def _is_zero(checkpoint: Checkpoint, name: str) -> bool:
    stored = checkpoint.tensors.get(name)
    if stored is None or stored.dtype not in DTYPES:
        return False
    return not np.any(checkpoint.read(name))
