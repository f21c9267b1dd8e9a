"""Which tensors of a checkpoint make each tensor of its GGUF.

Every GGUF tensor is seen as rows (its first dimension in ggml order is one row), and is put
together from pieces: rows of a checkpoint's tensor, in order. That covers tensors carried over,
experts stacked, and experts whose gate and up projections are one tensor.

Names: the gguf package (get_tensor_name_map); of experts, transformers' modelling files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from okno.convert.families import Family
from okno.core.errors import ModelUnusable
from okno.inspect.header_safetensors import OTHER_PARTS, Described
from okno.inspect.header_tensors import Tensor
from okno.inspect.safetensors import StoredTensor

Change = Literal["none", "pairs", "shift"]
# Where a model is the language part of a larger one, its names have these in front.
INNER = (("language_model.model.", "model."), ("model.language_model.", "model."),
         ("language_model.lm_head.", "lm_head."), ("model.text_model.", "model."))  # fmt: skip
# Computed from the configuration, whatever the file says.
COMPUTED = ("rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
PACKED = (".qweight", ".qzeros", ".scales", ".g_idx")
ONE_EXPERT = re.compile(r"layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight$")
ALL_EXPERTS = re.compile(r"layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\w+?)(?:\.weight)?$")
EXPERT_PARTS = {
    "gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down",
    "w2": "down",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """`n_rows` rows of the tensor `source` from `first` on. is_packed: source names a packed layer
    (its tensors are source + .qweight and so on), always used whole."""

    source: str
    first: int
    n_rows: int
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the GGUF. dimensions: ggml order. change: what is done to the values: `pairs`
    (rows of each head of head_dim rows go from halves to pairs), `shift` (the family's norm_shift
    is added). pieces: none for a tensor of frequency factors."""

    name: str
    dimensions: tuple[int, ...]
    pieces: tuple[Piece, ...]
    change: Change = "none"

    @property
    def n_rows(self) -> int:
        return math.prod(self.dimensions[1:])


def layout(
    model: Described,
    family: Family,
    shapes: Sequence[Tensor],
    *,
    is_zero: Callable[[str], bool] = lambda name: False,
) -> tuple[Target, ...]:
    """The targets that `shapes` (name, dimensions) ask for, in that order.

    is_zero: whether a tensor of the checkpoint holds nothing but zeros: AutoGPTQ adds such a bias
    to every layer it packs, and they are left out where the family has none. Raises ModelUnusable
    for a tensor that is missing, has the wrong shape, or has no place.
    """
    found = _Found(model)
    if model.sizes.tied and model.config.flag("tie_word_embeddings") is False:
        raise found.wrong("has no lm_head.weight, and says that its output layer is its own")
    targets = []
    for name, dimensions in shapes:
        pieces = () if name in FACTORS else found.take(name, dimensions)
        targets.append(Target(name, dimensions, pieces, _change(family, name)))
    found.check_nothing_left(is_zero)
    return tuple(targets)


def _change(family: Family, name: str) -> Change:
    turned = ("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias")
    if family.permutes and name.endswith(turned):
        return "pairs"
    return "shift" if family.norm_shift and name.endswith("_norm.weight") else "none"


class _Found:
    """The pieces that a checkpoint offers for each GGUF tensor, by its name."""

    def __init__(self, model: Described) -> None:
        self._model = model
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._left: dict[str, dict[int, Piece]] = {}
        rename = _renaming(model)
        for name, stored in _sources(model.weights.tensors):
            self._shapes[name] = stored.shape
            for target, place, piece in _offers(model, rename, name, stored):
                if place in self._left.setdefault(target, {}):
                    raise self.wrong(f"has {name!r} twice, under two names")
                self._left[target][place] = piece

    def take(self, name: str, dimensions: tuple[int, ...]) -> tuple[Piece, ...]:
        offered = self._left.pop(name, {})
        if not offered:
            raise self.wrong(f"has no tensor for {name}")
        pieces = tuple(piece for _, piece in sorted(offered.items()))
        n_rows = sum(piece.n_rows for piece in pieces)
        if any(piece.is_packed for piece in pieces):
            return pieces  # their shapes are checked when they are unpacked
        widths = {(self._shapes[piece.source] or (1,))[-1] for piece in pieces}
        if n_rows != math.prod(dimensions[1:]) or widths != set(dimensions[:1]):
            shown = ", ".join(str(self._shapes[piece.source]) for piece in pieces[:3])
            wanted = tuple(reversed(dimensions))
            raise self.wrong(
                f"has {pieces[0].source!r} of shape {shown}, and by its config.json {name} is "
                f"{wanted}"
            )
        return pieces

    def check_nothing_left(self, is_zero: Callable[[str], bool]) -> None:
        copies = ("output.weight",) if self._model.sizes.tied else ()  # of the embeddings
        for name in self._left.keys() - set(copies):
            source = next(iter(self._left[name].values())).source
            if source.endswith(".bias") and is_zero(source):
                continue
            raise self.wrong(f"has a tensor {source!r} for which its family has no place")

    def wrong(self, what: str) -> ModelUnusable:
        return ModelUnusable(
            f"{self._model.where} {what}. The configuration belongs to another model, or files are "
            "missing or damaged: get the model again, or give a GGUF file of it."
        )


def _sources(tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of the language part, packed layers under their name and `.weight`."""
    for name, stored in tensors.items():
        if name.startswith(OTHER_PARTS) or name.endswith(COMPUTED):
            continue
        if not name.endswith(PACKED):
            yield name, stored
        elif name.endswith(".qweight"):
            yield f"{name.removesuffix('.qweight')}.weight", stored


def _offers(
    model: Described, rename: Callable[[str], str | None], name: str, stored: StoredTensor
) -> Iterator[tuple[str, int, Piece]]:
    """For which GGUF tensors `name` has rows: (tensor, place among its pieces, piece)."""
    plain = name
    for inner, outer in INNER:
        if name.startswith(inner):
            plain = outer + name.removeprefix(inner)
    is_packed = name not in model.weights.tensors
    rows = math.prod(stored.shape[:-1])
    if (match := ONE_EXPERT.search(plain)) and match[3] in EXPERT_PARTS:
        target = f"blk.{match[1]}.ffn_{EXPERT_PARTS[match[3]]}_exps.weight"
        yield target, int(match[2]), _piece(name, 0, rows, is_packed=is_packed)
    elif (match := ALL_EXPERTS.search(plain)) and not is_packed:
        yield from _stacked(match[1], match[2], name, stored.shape)
    else:
        yield rename(plain) or plain, 0, _piece(name, 0, rows, is_packed=is_packed)


def _piece(name: str, first: int, rows: int, *, is_packed: bool) -> Piece:
    source = name.removesuffix(".weight") if is_packed else name
    return Piece(source, first, rows, is_packed)


def _stacked(
    layer: str, part: str, name: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, int, Piece]]:
    """Experts in one tensor: (expert, rows, columns), gate and up below each other."""
    if len(shape) != 3 or part not in (*EXPERT_PARTS, "gate_up_proj"):
        yield name, 0, Piece(name, 0, math.prod(shape[:-1]))
        return
    n_expert, rows, _ = shape
    if part != "gate_up_proj":
        target = f"blk.{layer}.ffn_{EXPERT_PARTS[part]}_exps.weight"
        yield target, 0, Piece(name, 0, n_expert * rows)
        return
    half = rows // 2
    for expert in range(n_expert):
        for at, kind in ((0, "gate"), (half, "up")):
            piece = Piece(name, expert * rows + at, half)
            yield f"blk.{layer}.ffn_{kind}_exps.weight", expert, piece


def _renaming(model: Described) -> Callable[[str], str | None]:
    """From a checkpoint's name to GGUF's, by the gguf package's table of this architecture."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[model.sizes.architecture], model.sizes.n_layer)

    def rename(name: str) -> str | None:
        found: str | None = table.get_name(name, try_suffixes=(".weight", ".bias"))
        return found

    return rename
