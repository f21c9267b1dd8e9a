"""Which packed layers (GPTQ, AWQ) make a tensor, in which type, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from okno.convert.absorb import absorbed_order
from okno.convert.checkpoint import Array, Checkpoint
from okno.convert.layout import Target
from okno.convert.packed_layer import Order, PackedLayer, packed_layer
from okno.convert.packing import INSTEAD, Packing, packing_of
from okno.convert.repack import Choice, How, Report, choose, choose_as, choose_fewer_bits
from okno.core.errors import ModelUnusable
from okno.inspect.gguf_types import BY_NAME

Read = Callable[[str], Array]
# A tensor whose columns may come in another order, and those whose rows then give them in it.
Others = tuple[str, tuple[str, ...]]
FEED_FORWARD: Others = ("ffn_down", ("ffn_gate", "ffn_up"))
ATTENTION: Others = ("attn_output", ("attn_v",))


@dataclass(frozen=True, slots=True, eq=False)
class PackedPart:
    """One layer of a tensor. columns: its inputs in the order of the file; rows: its outputs. None:
    as they are. how and rounding_steps: as in repack.Choice."""

    layer: str
    n_rows: int
    n_columns: int
    how: How
    rounding_steps: float = 0.0
    columns: Order | None = None
    rows: Order | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PackedTarget:
    """ggml_type: of all its layers. reports: what became of each; complete when it is written."""

    ggml_type: str
    packing: Packing
    parts: tuple[PackedPart, ...]
    reports: dict[str, Report] = field(default_factory=dict)

    def open(self, checkpoint: Checkpoint, part: PackedPart) -> Choice:
        """The layer of `part`, read, its rows in their order."""
        layer = _layer(checkpoint, self.packing, part.layer, checkpoint.read)
        if part.rows is not None:
            layer = layer.reordered(part.rows)
        groups = layer.group_of if part.columns is None else layer.group_of[part.columns]
        return Choice(layer, self.ggml_type, part.how, part.columns, groups, part.rounding_steps)


def packed_targets(
    checkpoint: Checkpoint, targets: tuple[Target, ...], asked: Mapping[str, str]
) -> dict[str, PackedTarget]:
    """Those of `targets` that are packed, by name. asked: the types they are to have, by name,
    where fewer bits are asked for than they have; else empty. Raises ModelUnusable for layers that
    do not fit together, and for a packing that is not read."""
    packed = {t.name: t for t in targets if any(piece.is_packed for piece in t.pieces)}
    if not packed:
        return {}
    model = checkpoint.described
    packing = packing_of(model.config.values, model.quantize_config, str(checkpoint.folder))
    if packing is None:
        raise ModelUnusable(
            f"{checkpoint.folder} has packed layers ({next(iter(packed))}), and neither its "
            "config.json (quantization_config) nor quantize_config.json says GPTQ or AWQ. "
            f"{INSTEAD}"
        )
    look = partial(_layer, checkpoint, packing, read=checkpoint.mapped)
    if asked:
        return {
            name: _with_fewer_bits(checkpoint, packing, target, look, asked[name])
            for name, target in packed.items()
        }
    columns, rows = _orders(checkpoint, packed, {target.name for target in targets}, look)
    return {
        name: _planned(checkpoint, packing, target, look, columns.get(name), rows.get(name))
        for name, target in packed.items()
    }


def is_reordered(packed: Mapping[str, PackedTarget]) -> bool:
    """Whether columns of some tensor are in another order than in the checkpoint, and rows of the
    one before with them: an adapter for the checkpoint does not fit the file."""
    parts = (part for target in packed.values() for part in target.parts)
    return any(part.columns is not None for part in parts)


def _with_fewer_bits(
    checkpoint: Checkpoint,
    packing: Packing,
    target: Target,
    look: Callable[[str], PackedLayer],
    ggml_type: str,
) -> PackedTarget:
    """Quantised anew, columns in their order: blocks of fewer bits do not hold the groups."""
    choices = [choose_fewer_bits(look(name), ggml_type) for name in _layers(checkpoint, target)]
    _check_sizes(checkpoint, target, choices)
    turned = _in_pairs(target, checkpoint) if target.change == "pairs" else None
    return PackedTarget(ggml_type, packing, tuple(_part(choice, turned) for choice in choices))


def _planned(
    checkpoint: Checkpoint,
    packing: Packing,
    target: Target,
    look: Callable[[str], PackedLayer],
    columns: list[Order | None] | None,
    rows: list[Order | None] | None,
) -> PackedTarget:
    names = _layers(checkpoint, target)
    ordered = columns or [None] * len(names)
    choices = [choose(look(name), order) for name, order in zip(names, ordered, strict=True)]
    _check_sizes(checkpoint, target, choices)
    kinds = {choice.ggml_type for choice in choices}
    kind = max(kinds, key=lambda name: BY_NAME[name].block_bytes / BY_NAME[name].block_values)
    if len(kinds) > 1:
        choices = [choose_as(choice.layer, kind, choice.order) for choice in choices]
    turned = _in_pairs(target, checkpoint) if target.change == "pairs" else None
    parts = tuple(
        _part(choice, order)
        for choice, order in zip(choices, rows or [turned] * len(names), strict=True)
    )
    return PackedTarget(kind, packing, parts)


def _layers(checkpoint: Checkpoint, target: Target) -> list[str]:
    """The layers of `target`, all of which must be packed."""
    odd = next((piece.source for piece in target.pieces if not piece.is_packed), None)
    if odd is not None:
        raise ModelUnusable(
            f"{checkpoint.folder} has some of the layers of {target.name} packed and {odd} not, "
            f"which one tensor cannot hold. {INSTEAD}"
        )
    return [piece.source for piece in target.pieces]


def _part(choice: Choice, rows: Order | None) -> PackedPart:
    layer = choice.layer
    return PackedPart(
        layer.name, layer.n_rows, layer.n_columns, choice.how, choice.rounding_steps, choice.order,
        rows,
    )  # fmt: skip


def _orders(
    checkpoint: Checkpoint,
    packed: Mapping[str, Target],
    names: set[str],
    look: Callable[[str], PackedLayer],
) -> tuple[dict[str, list[Order | None]], dict[str, list[Order | None]]]:
    """(columns, rows): new orders of the layers of tensors, by the tensors' names."""
    columns: dict[str, list[Order | None]] = {}
    rows: dict[str, list[Order | None]] = {}
    for name, target in packed.items():
        givers = _before(checkpoint, name, names)
        if not givers or not all(_can_give(packed, names, giver) for giver in givers):
            continue
        layers = [look(piece.source) for piece in target.pieces]
        head_dim = checkpoint.described.sizes.head_dim
        spans = [head_dim if ATTENTION[0] in name else layer.n_columns for layer in layers]
        found = [absorbed_order(one.group_of, n) for one, n in zip(layers, spans, strict=True)]
        if all(order is None for order in found):
            continue
        columns[name] = found
        for giver in givers:
            pairs = zip(found, packed[giver].pieces, strict=True)
            rows[giver] = [_given(order, look(piece.source)) for order, piece in pairs]
    return columns, rows


def _before(checkpoint: Checkpoint, name: str, names: set[str]) -> list[str]:
    """The tensors whose rows are the columns of `name`, one by one."""
    sizes = checkpoint.described.sizes
    if f".{FEED_FORWARD[0]}" in name:
        others = FEED_FORWARD
    elif f".{ATTENTION[0]}" in name and sizes.n_head == sizes.n_head_kv:
        others = ATTENTION  # else several heads of queries share what a head of values gives
    else:
        return []
    own, before = others
    return [other for one in before if (other := name.replace(own, one)) in names]


def _can_give(packed: Mapping[str, Target], names: set[str], giver: str) -> bool:
    """Whether the rows of a tensor may change: it is packed, and nothing else goes by its rows."""
    return giver in packed and giver.removesuffix("weight") + "bias" not in names


def _given(order: Order | None, giver: PackedLayer) -> Order | None:
    """The rows of the layer before; where gate and up are one layer, of both."""
    if order is None or giver.n_rows == order.size:
        return order
    starts = range(0, giver.n_rows, order.size)
    return np.concatenate([order + start for start in starts])


def _in_pairs(target: Target, checkpoint: Checkpoint) -> Order:
    """The order of rows that values.in_pairs makes."""
    half = checkpoint.described.sizes.head_dim // 2
    rows = np.arange(target.n_rows).reshape(-1, 2, half)
    return rows.swapaxes(1, 2).reshape(-1)


def _check_sizes(checkpoint: Checkpoint, target: Target, choices: list[Choice]) -> None:
    found = {choice.layer.n_columns for choice in choices}
    n_rows = sum(choice.layer.n_rows for choice in choices)
    if found != {target.dimensions[0]} or n_rows != target.n_rows:
        first = choices[0].layer
        raise ModelUnusable(
            f"{checkpoint.folder} has {first.name} with {first.n_columns} inputs and "
            f"{first.n_rows} outputs; by its config.json {target.name} has {target.dimensions[0]} "
            f"and {target.n_rows}. The configuration belongs to another model, or the file is "
            "damaged: get the model again."
        )


def _layer(checkpoint: Checkpoint, packing: Packing, name: str, read: Read) -> PackedLayer:
    def there(tensor: str) -> Array | None:
        return read(tensor) if tensor in checkpoint.tensors else None

    return packed_layer(packing, name, there)
