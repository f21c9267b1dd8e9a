"""One packed linear layer, whatever the layout: weight = scale * (number - zero) of its group.

Shapes as AutoGPTQ and AutoAWQ write them (I inputs, O outputs, G groups, b bits):
    gptq  qweight (I*b/32, O)  qzeros (G, O*b/32)  scales (G, O)  g_idx (I), may be missing
    gemm  qweight (I, O/8)     qzeros (G, O/8)     scales (G, O)
    gemv  qweight (O, I/8)     qzeros (O, >= G/8)  scales (O, >= G)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from okno.convert.packed_words import Small, Words, as_words, plus_one, unpack, unpack_awq
from okno.convert.packing import GPTQ_BITS, INSTEAD, Layout, Packing
from okno.core.errors import ModelUnusable

Array = npt.NDArray[Any]
Read = Callable[[str], Array | None]
Order = npt.NDArray[np.intp]
PIECE_VALUES = 4 * 1024 * 1024
ROWS_TOGETHER = 8  # neighbouring outputs that share words in some layouts


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayer:
    """n_rows: outputs. n_columns: inputs. group_of: (n_columns,) the group of each input. zeros,
    scales: (groups, n_rows). words: as stored, in layout `numbers` (n_columns, n_rows) numbers;
    `values` reads them."""

    name: str
    bits: int
    layout: Layout | Literal["numbers"]
    n_rows: int
    n_columns: int
    group_of: npt.NDArray[np.int32]
    zeros: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    words: Words | Small

    def values(self, start: int, stop: int) -> Small:
        """(stop - start, n_columns): the numbers of these rows. start must be a multiple of 8."""
        assert start % ROWS_TOGETHER == 0, start
        if self.layout == "gemv":
            return unpack(as_words(self.words[start:stop]), 4)
        if self.layout == "numbers":
            return np.ascontiguousarray(self.words[:, start:stop].T).astype(np.uint8, copy=False)
        if self.layout == "gemm":
            last = -(-stop // ROWS_TOGETHER)
            found = unpack_awq(as_words(self.words[:, start // ROWS_TOGETHER : last]))
            return np.ascontiguousarray(found[:, : stop - start].T)
        return unpack(as_words(np.ascontiguousarray(self.words[:, start:stop].T)), self.bits)

    def reordered(self, rows: Order) -> PackedLayer:
        """The same layer with its outputs in another order: row n is row rows[n] of this one."""
        if self.layout == "gemv":
            words: Words | Small = self.words[rows]
        elif self.layout == "gemm":
            words = unpack_awq(as_words(self.words))[:, rows]
        else:
            words = self.words[:, rows]
        return replace(
            self,
            layout="numbers" if self.layout == "gemm" else self.layout,
            zeros=self.zeros[:, rows],
            scales=self.scales[:, rows],
            words=words,
        )

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of rows to be worked on at once, in bounded memory."""
        return pieces_of(self.n_rows, self.n_columns)


def pieces_of(n_rows: int, n_columns: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of rows that hold about PIECE_VALUES numbers, each start a multiple of 8."""
    rows = max(1, PIECE_VALUES // max(n_columns, 1) // ROWS_TOGETHER) * ROWS_TOGETHER
    for start in range(0, n_rows, rows):
        yield start, min(start + rows, n_rows)


def packed_layer(packing: Packing, name: str, read: Read) -> PackedLayer:
    """The layer called `name`, its shapes checked.

    read: gives a tensor of the checkpoint by name (None: not there), bfloat16 as its bits in
    uint16. Raises ModelUnusable for tensors that are missing or do not fit together.
    """
    qweight, qzeros, scales = (_needed(packing, name, part, read) for part in
                               ("qweight", "qzeros", "scales"))  # fmt: skip
    g_idx = read(f"{name}.g_idx") if packing.method == "GPTQ" else None
    if packing.layout == "gemv":
        return _gemv(packing, name, qweight, qzeros, scales)
    return _by_inputs(packing, name, qweight, qzeros, scales, g_idx)


def _by_inputs(
    packing: Packing, name: str, qweight: Array, qzeros: Array, scales: Array, g_idx: Array | None
) -> PackedLayer:
    """A layer of layout gptq or gemm, whose first dimension is the inputs'."""
    is_gptq = packing.method == "GPTQ"
    n_rows = scales.shape[1]
    bits = _bits(packing, name, qweight, g_idx) if is_gptq else 4
    n_columns = qweight.shape[0] * 32 // bits if is_gptq else qweight.shape[0]
    wide = (qweight.shape[0], n_rows if is_gptq else n_rows * bits // 32)
    _check(packing, f"{name}.qweight", qweight, wide)
    _check(packing, f"{name}.qzeros", qzeros, (scales.shape[0], n_rows * bits // 32))
    groups = _groups(packing, name, scales.shape[0], n_columns, g_idx)
    zeros = as_words(qzeros)
    return PackedLayer(
        name=name,
        bits=bits,
        layout=packing.layout,
        n_rows=n_rows,
        n_columns=n_columns,
        group_of=groups,
        zeros=plus_one(zeros, bits)
        if packing.layout == "gptq"
        else unpack(zeros, bits)
        if is_gptq
        else unpack_awq(zeros),
        scales=_finite(packing, name, scales),
        words=as_words(qweight),
    )


def _gemv(packing: Packing, name: str, qweight: Array, qzeros: Array, scales: Array) -> PackedLayer:
    """zeros and scales may be padded with groups that no input has."""
    n_rows, n_columns = qweight.shape[0], qweight.shape[1] * 8
    n_groups = 1 if packing.group_size == -1 else -(-n_columns // packing.group_size)
    _check(packing, f"{name}.qzeros", qzeros, (n_rows, max(qzeros.shape[1], -(-n_groups // 8))))
    _check(packing, f"{name}.scales", scales, (n_rows, max(scales.shape[1], n_groups)))
    return PackedLayer(
        name=name,
        bits=4,
        layout="gemv",
        n_rows=n_rows,
        n_columns=n_columns,
        group_of=_groups(packing, name, n_groups, n_columns, None),
        zeros=np.ascontiguousarray(unpack(as_words(qzeros), 4)[:, :n_groups].T),
        scales=_finite(packing, name, np.ascontiguousarray(scales[:, :n_groups].T)),
        words=as_words(qweight),
    )


def _needed(packing: Packing, name: str, part: str, read: Read) -> Array:
    found = read(f"{name}.{part}")
    if found is None:
        raise ModelUnusable(
            f"{packing.where} has {name}.qweight and no {name}.{part}: a packed layer needs "
            "qweight, qzeros and scales. Is a file of the model missing? Get the model again."
        )
    is_float = part == "scales"
    if is_float and found.dtype == np.uint16:
        found = (found.astype(np.uint32) << np.uint32(16)).view(np.float32)
    right = found.dtype.kind == "f" if is_float else found.dtype in (np.int32, np.uint32)
    if found.ndim != 2 or not right or 0 in found.shape:
        wanted = "numbers of 16 or 32 bits with a point" if is_float else "integers of 32 bits"
        raise ModelUnusable(
            f"{packing.where} has {name}.{part} of type {found.dtype} and shape {found.shape}; "
            f"{packing.method} has {wanted} in two dimensions there. {INSTEAD}"
        )
    return found


def _bits(packing: Packing, name: str, qweight: Array, g_idx: Array | None) -> int:
    """As configured; where layers may differ, as the shapes say."""
    if g_idx is None:
        return packing.bits
    bits, rest = divmod(int(qweight.shape[0]) * 32, max(g_idx.size, 1))
    if rest or bits not in GPTQ_BITS:
        raise ModelUnusable(
            f"{packing.where} has {name}.qweight with {qweight.shape[0]} words for each of the "
            f"outputs, which hold no whole number of bits for {g_idx.size} inputs (as many as "
            f"{name}.g_idx has). The file is damaged, or not {packing.method}. {INSTEAD}"
        )
    if bits != packing.bits and not packing.has_exceptions:
        raise ModelUnusable(
            f"{packing.where} says its weights have {packing.bits} bits, and {name}.qweight holds "
            f"{bits} for each of {g_idx.size} inputs. Correct `bits` in the model's "
            "quantization_config (config.json) or quantize_config.json, or get the model again."
        )
    return bits


def _groups(
    packing: Packing, name: str, n_groups: int, n_columns: int, g_idx: Array | None
) -> npt.NDArray[np.int32]:
    """The group of each input."""
    size = n_columns if packing.group_size == -1 else packing.group_size
    wanted = -(-n_columns // size)
    if n_groups != wanted and not (packing.has_exceptions and g_idx is not None):
        raise ModelUnusable(
            f"{packing.where} has scales for {n_groups} groups in {name}, where groups of "
            f"{packing.group_size} of its {n_columns} inputs make {wanted}. Correct `group_size` "
            "in the model's quantization_config (config.json) or quantize_config.json, or get the "
            "model again."
        )
    if g_idx is None:
        return (np.arange(n_columns) // size).astype(np.int32)
    found = g_idx.reshape(-1).astype(np.int64)
    if g_idx.dtype.kind not in "iu" or found.size != n_columns:
        raise ModelUnusable(
            f"{packing.where} has {name}.g_idx of type {g_idx.dtype} for {found.size} inputs; "
            f"the layer has {n_columns}. Get the model again."
        )
    if found.size and not (found.min() >= 0 and found.max() < n_groups):
        raise ModelUnusable(
            f"{packing.where} puts inputs of {name} into group {found.min()} to {found.max()} "
            f"(g_idx), and there are {n_groups} groups. The file is damaged; get the model again."
        )
    return found.astype(np.int32)


def _check(packing: Packing, name: str, found: Array, wanted: tuple[int, int]) -> None:
    if found.shape != wanted:
        raise ModelUnusable(
            f"{packing.where} has {name} of shape {found.shape}; with {packing.bits} bits and "
            f"groups of {packing.group_size} in the layout {packing.layout!r} it must be {wanted}. "
            "The configuration belongs to other files, or these are damaged; get the model again."
        )


def _finite(packing: Packing, name: str, scales: Array) -> npt.NDArray[np.float32]:
    found = scales.astype(np.float32)
    if not np.isfinite(found).all():
        raise ModelUnusable(
            f"{packing.where} has scales in {name} that are no finite numbers: the file is "
            "damaged. Get the model again."
        )
    return found
