"""A packed layer as rows of a ggml type: carried over where a type holds the same numbers, else
requantised to the smallest type whose error stays under a bound.

A block of ggml has one scale for 32 columns. Where all 32 are of one group, Q4_0 is `scale *
(number - 8)` with number and scale as packed, so nothing is rounded; Q4_1 is `scale * number +
offset`, where only the offset is (to 16 bits). Columns in another order (act-order) mix the groups
of a block; then no type of ggml holds the same numbers.

The bound: packing itself moved each weight by up to half a step (the distance of two neighbouring
numbers), 0.289 steps in the root of the mean square. An error of MAX_STEPS (root mean square, of
the root mean square of the steps) adds sqrt(0.289^2 + 0.05^2) / 0.289 - 1 = 1.5 % to that. The
steps of 8 bits are 16 times finer than those of 4, so there MAX_RELATIVE of the weights' own root
mean square is allowed instead: twice what Q8_0 costs a model of 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from okno.convert.packed_blocks import BLOCK, q4_0, q4_1, q8_0
from okno.convert.packed_layer import ROWS_TOGETHER, Order, PackedLayer
from okno.convert.quantise import dequantise_rows, quantise_rows
from okno.inspect.gguf_types import BY_NAME

MAX_STEPS = 0.05
MAX_RELATIVE = 0.01
SAMPLED_STRIPS = 4  # of 8 rows each, on which types are tried
# From small to large, from coarse to fine, and where to begin: for rows that are whole blocks of
# 256, and for others.
CANDIDATES = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "F32")
FOR_OTHERS = ("Q4_1", "Q5_1", "Q8_0", "F16", "F32")
BEGIN = 2

How = Literal["exact", "rounded", "requantised", "asked"]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Groups = npt.NDArray[np.int32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a layer becomes. how: `asked` for fewer bits than it has. order: of its columns in the
    file, None: as they are. groups: of these columns. rounding_steps: the most that a weight moves
    because scales and offsets have 16 bits, in steps."""

    layer: PackedLayer
    ggml_type: str
    how: How
    order: Order | None
    groups: Groups
    rounding_steps: float = 0.0

    @property
    def block_groups(self) -> Groups:
        return self.groups[::BLOCK]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of squares over the weights of some rows: of steps, of errors, of the weights."""

    steps: float = 0.0
    errors: float = 0.0
    weights: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.steps + other.steps, self.errors + other.errors, self.weights + other.weights
        )


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """blocks: (rows, bytes of a row)."""

    blocks: Bytes
    sums: Sums


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a layer. error_steps: the root of the mean square (requantised), or the most
    of any weight (rounded); error_relative: to the root mean square of the weights."""

    name: str
    bits: int
    ggml_type: str
    how: How
    n_weights: int
    error_steps: float = 0.0
    error_relative: float = 0.0

    @property
    def grew(self) -> bool:
        """Whether the file needs more bits for a weight than the checkpoint (by over a bit)."""
        kind = BY_NAME[self.ggml_type]
        return 8 * kind.block_bytes / kind.block_values > self.bits + 1.1

    def __str__(self) -> str:
        told = f"{self.name}: {self.bits} bits to {self.ggml_type}, "
        if self.how == "exact":
            return told + "the same numbers"
        if self.how == "rounded":
            return told + f"no weight moved by more than {self.error_steps:.2g} of a step"
        if self.how == "asked":
            return told + f"as asked, error {self.error_relative:.1%} of the weights (RMS)"
        return told + f"requantised, error {self.error_steps:.2g} of a step (RMS)"


def choose(layer: PackedLayer, order: Order | None = None) -> Choice:
    """The type for `layer` with its columns in `order`. Reads no more than a few of its rows."""
    groups = layer.group_of if order is None else layer.group_of[order]
    kind = _carrying(layer) if _whole_blocks(groups) else None
    if kind is not None:
        moved = _rounding_steps(layer, kind)
        if moved <= MAX_STEPS:
            return Choice(layer, kind, "rounded" if moved else "exact", order, groups, moved)
    names = _candidates(layer.n_columns)
    tries = {name: Choice(layer, name, "requantised", order, groups) for name in names}
    place = min(BEGIN, len(names) - 1)
    if _is_near(tries[names[place]]):
        while place and _is_near(tries[names[place - 1]]):
            place -= 1
    else:
        while place < len(names) - 1 and not _is_near(tries[names[place]]):
            place += 1
    return tries[names[place]]


def choose_as(layer: PackedLayer, ggml_type: str, order: Order | None = None) -> Choice:
    """`layer` as just this type, which other layers of the same tensor need."""
    found = choose(layer, order)
    if found.ggml_type == ggml_type:
        return found
    if ggml_type == "Q4_1" and layer.bits <= 4 and _whole_blocks(found.groups):
        moved = _rounding_steps(layer, ggml_type)
        return Choice(layer, ggml_type, "rounded", order, found.groups, moved)
    return Choice(layer, ggml_type, "requantised", order, found.groups)


def choose_fewer_bits(layer: PackedLayer, ggml_type: str) -> Choice:
    """`layer` in a type of fewer bits than it has, as somebody wants it."""
    return Choice(layer, ggml_type, "asked", None, layer.group_of)


def repack(choice: Choice, start: int, stop: int) -> Piece:
    """The rows from start (a multiple of 8) to stop. Any thread may call it."""
    if choice.how in ("requantised", "asked"):
        return _requantised(choice, start, stop)
    layer, blocks = choice.layer, choice.block_groups
    values = _ordered(choice, layer.values(start, stop))
    scales = np.ascontiguousarray(layer.scales[blocks, start:stop].T)
    halves = scales.astype(np.float16)
    zeros = np.ascontiguousarray(layer.zeros[blocks, start:stop].T)
    if choice.ggml_type == "Q4_1":
        offsets = _offsets(scales, zeros)
        return Piece(q4_1(values, halves, offsets), Sums())
    middle = np.uint8(128 if choice.ggml_type == "Q8_0" else 8)
    if (zeros != middle).any():  # a value may be below its zero point: modulo 256 is right
        by_block = values.reshape(*zeros.shape, BLOCK)
        values = (by_block + (middle - zeros)[:, :, None]).reshape(values.shape)
    if choice.ggml_type == "Q8_0":
        return Piece(q8_0((values ^ middle).view(np.int8), halves), Sums())
    return Piece(q4_0(values, halves), Sums())


def report(choice: Choice, sums: Iterable[Sums]) -> Report:
    """What became of the layer; sums: of all its pieces."""
    layer = choice.layer
    count = layer.n_rows * layer.n_columns
    total = sum(sums, Sums())
    return Report(
        layer.name,
        layer.bits,
        choice.ggml_type,
        choice.how,
        count,
        error_steps=choice.rounding_steps or _root(total.errors, total.steps),
        error_relative=_root(total.errors, total.weights),
    )


def weights(layer: PackedLayer, start: int, stop: int) -> tuple[Floats, Floats]:
    """((rows, columns) weights, (rows, columns) steps) of these rows: what the packing means."""
    values = layer.values(start, stop)
    zeros = np.ascontiguousarray(layer.zeros[:, start:stop].T)
    scales = np.ascontiguousarray(layer.scales[:, start:stop].T)
    steps = np.take(scales, layer.group_of, axis=1)
    found = values.astype(np.float32)
    found -= np.take(zeros, layer.group_of, axis=1)
    found *= steps
    return found, steps


def _whole_blocks(groups: Groups) -> bool:
    """Whether each 32 columns are of one group."""
    if groups.size % BLOCK:
        return False
    blocks = groups.reshape(-1, BLOCK)
    return bool((blocks == blocks[:, :1]).all())


def _carrying(layer: PackedLayer) -> str | None:
    """The type with the same numbers. Q4_0 has -8 to 7 steps, Q8_0 -128 to 127, and all numbers of
    2 and 3 bits are among these; Q4_1 has 0 to 15 above an offset."""
    least, most = -int(layer.zeros.max()), 2**layer.bits - 1 - int(layer.zeros.min())
    if least >= -8 and most <= 7:
        return "Q4_0"
    if layer.bits <= 4:
        return "Q4_1"
    return "Q8_0" if least >= -128 and most <= 127 else None


def _rounding_steps(layer: PackedLayer, kind: str) -> float:
    """The most that 16 bits for scale and offset move a weight, in steps of its group."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if kind != "Q4_1" and np.array_equal(layer.scales, layer.scales.astype(np.float16)):
            return 0.0
        exact = layer.scales.astype(np.float64)
        halves = layer.scales.astype(np.float16).astype(np.float64)
        zeros = layer.zeros.astype(np.float64)
        most = 2**layer.bits - 1
        if kind == "Q4_1":
            offsets = _offsets(layer.scales, layer.zeros).astype(np.float64)
            ends = [np.abs(halves * end + offsets - exact * (end - zeros)) for end in (0, most)]
        else:
            ends = [np.abs((halves - exact) * (end - zeros)) for end in (0, most)]
        moved = np.maximum(*ends) / np.abs(exact)
    moved[exact == 0] = 0.0
    return float(np.nan_to_num(moved, nan=np.inf).max())


def _offsets(scales: Floats, zeros: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return (-scales * zeros).astype(np.float16)


def _candidates(columns: int) -> list[str]:
    all_of_them = FOR_OTHERS if columns % 256 else CANDIDATES
    return [name for name in all_of_them if columns % BY_NAME[name].block_values == 0]


def _is_near(tried: Choice) -> bool:
    """Whether the error of some rows is below the bound."""
    layer, n_strips = tried.layer, -(-tried.layer.n_rows // ROWS_TOGETHER)
    strips = np.unique(np.linspace(0, n_strips - 1, SAMPLED_STRIPS).astype(int))
    starts = [int(strip) * ROWS_TOGETHER for strip in strips]
    ends = [(start, min(start + ROWS_TOGETHER, layer.n_rows)) for start in starts]
    total = sum((_requantised(tried, *end).sums for end in ends), Sums())
    return (
        _root(total.errors, total.steps) <= MAX_STEPS
        or _root(total.errors, total.weights) <= MAX_RELATIVE
    )


def _requantised(choice: Choice, start: int, stop: int) -> Piece:
    found, steps = weights(choice.layer, start, stop)
    wanted = _ordered(choice, found)
    blocks = quantise_rows(wanted, choice.ggml_type)
    errors = dequantise_rows(blocks, choice.ggml_type, wanted.shape[1])
    errors -= wanted
    return Piece(blocks, Sums(_square(steps), _square(errors), _square(wanted)))


def _square(values: Floats) -> float:
    return float(np.vdot(values, values))


def _root(part: float, whole: float) -> float:
    return (part / whole) ** 0.5 if whole else 0.0


def _ordered(choice: Choice, values: npt.NDArray[T]) -> npt.NDArray[T]:
    return values if choice.order is None else np.take(values, choice.order, axis=1)
