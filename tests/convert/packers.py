"""Packed layers made the slow way, number by number, as the quantisers' own pack functions do it:
AutoGPTQ's (qlinear_cuda.py, `pack`) and AutoAWQ's (gemm.py and gemv.py, `from_linear`).

Written apart from okno's reader, which works on whole words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True)
class Truth:
    """A layer as the quantiser knows it: numbers (inputs, outputs), zeros and scales (groups,
    outputs), group of each input."""

    numbers: npt.NDArray[np.int64]
    zeros: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float16]
    groups: npt.NDArray[np.int64]
    bits: int

    def weights(self) -> npt.NDArray[np.float64]:
        """(outputs, inputs): scale of the group times (number - zero of the group)."""
        n_inputs, n_outputs = self.numbers.shape
        found = np.empty((n_outputs, n_inputs))
        for i in range(n_inputs):
            g = self.groups[i]
            found[:, i] = self.scales[g].astype(np.float64) * (self.numbers[i] - self.zeros[g])
        return found


def layer(
    n_inputs: int,
    n_outputs: int,
    *,
    bits: int = 4,
    group: int = 32,
    sym: bool = True,
    act_order: bool = False,
    seed: int = 0,
) -> Truth:
    """Random numbers in all their range, scales of a weight's size."""
    rng = np.random.default_rng(seed)
    size = n_inputs if group == -1 else group
    n_groups = -(-n_inputs // size)
    zeros = np.full((n_groups, n_outputs), 2 ** (bits - 1))
    if not sym:
        zeros = rng.integers(1, 2**bits, (n_groups, n_outputs))
    groups = np.arange(n_inputs) // size
    if act_order:
        rng.shuffle(groups)
    scales = rng.uniform(0.001, 0.02, (n_groups, n_outputs)).astype(np.float16)
    return Truth(rng.integers(0, 2**bits, (n_inputs, n_outputs)), zeros, scales, groups, bits)


def gptq(truth: Truth, name: str = "layer", *, v2: bool = False) -> dict[str, Array]:
    """The tensors of a GPTQ checkpoint."""
    stored = truth.zeros if v2 else truth.zeros - 1
    return {
        f"{name}.qweight": _stream(truth.numbers, truth.bits),
        f"{name}.qzeros": _stream(stored.T, truth.bits).T.copy(),
        f"{name}.scales": truth.scales,
        f"{name}.g_idx": truth.groups.astype(np.int32),
    }


def awq_gemm(truth: Truth, name: str = "layer") -> dict[str, Array]:
    return {
        f"{name}.qweight": _eights(truth.numbers, AWQ_ORDER),
        f"{name}.qzeros": _eights(truth.zeros, AWQ_ORDER),
        f"{name}.scales": truth.scales,
    }


def awq_gemv(truth: Truth, name: str = "layer") -> dict[str, Array]:
    """Zeros and scales are padded to whole words of groups."""
    n_groups = truth.zeros.shape[0]
    more = -n_groups % 8
    zeros = np.pad(truth.zeros, ((0, more), (0, 0)))
    scales = np.pad(truth.scales, ((0, more), (0, 0)))
    return {
        f"{name}.qweight": _eights(truth.numbers.T, list(range(8))),
        f"{name}.qzeros": _eights(zeros.T, list(range(8))),
        f"{name}.scales": scales.T.copy(),
    }


def _stream(numbers: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int32]:
    """(n, m) numbers as (n * bits / 32, m) words: bit by bit, the least first."""
    n, m = numbers.shape
    words = np.zeros((n * bits // 32, m), np.uint64)
    for i in range(n):
        for b in range(bits):
            word, place = divmod(i * bits + b, 32)
            bit = ((numbers[i] >> b) & 1).astype(np.uint64)
            words[word] |= bit << np.uint64(place)
    return words.astype(np.uint32).view(np.int32)


def _eights(numbers: npt.NDArray[np.int64], order: list[int]) -> npt.NDArray[np.int32]:
    """(n, m) numbers as (n, m / 8) words, in each the columns of `order`."""
    n, m = numbers.shape
    words = np.zeros((n, m // 8), np.uint64)
    for column in range(m // 8):
        for place, which in enumerate(order):
            part = numbers[:, 8 * column + which].astype(np.uint64)
            words[:, column] |= part << np.uint64(4 * place)
    return words.astype(np.uint32).view(np.int32)


def with_scales(truth: Truth, scales: Array) -> Truth:
    return replace(truth, scales=scales)  # type: ignore[arg-type]
