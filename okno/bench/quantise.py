"""Random weights in any storage type, through ggml's own quantisers (`ggml_quantize_chunk`)."""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np
import numpy.typing as npt

from okno.bench.tensors import Shape, Tensor
from okno.convert.quantise import quantise_rows, row_bytes
from okno.inspect.gguf_types import BY_NAME

FileType = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "MXFP4"]
FILE_TYPES: tuple[FileType, ...] = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "MXFP4")
CHUNK_VALUES = 4 * 1024 * 1024
REPEAT_VALUES = 64 * 1024 * 1024

FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0", "Q4_0": "F16", "Q5_0": "F16", "Q8_0": "F16",
            "MXFP4": "F16"}  # fmt: skip


def storage_type(shape: Shape, tensor: Tensor, file_type: FileType) -> str:
    """The ggml type of `tensor` in a file of `file_type`.

    The rules of llama-quantize (llama.cpp, src/llama-quant.cpp): the output layer of a 4-bit file
    is Q6_K; Q4_K_M keeps some value and down projections in Q6_K; MXFP4 is for experts, the rest
    Q8_0; a row that is no whole number of blocks falls back to the next finer type.
    """
    if not tensor.quantised:
        return "F32"
    wanted: str = file_type
    if file_type in ("Q4_0", "Q4_K_M"):
        wanted = _four_bit_type(shape, tensor, file_type)
    elif file_type == "MXFP4" and not tensor.name.endswith("_exps.weight"):
        wanted = "Q8_0"
    while tensor.columns % BY_NAME[wanted].block_values:
        wanted = FALLBACK[wanted]
    return wanted


def _four_bit_type(shape: Shape, tensor: Tensor, file_type: FileType) -> str:
    output = "token_embd.weight" if shape.tied else "output.weight"
    if tensor.name == output and shape.architecture != "bert":
        return "Q6_K"
    if file_type == "Q4_0":
        return "Q4_0"
    kept_fine = tensor.name.endswith(("attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight"))
    return "Q6_K" if kept_fine and _more_bits(_layer(tensor), shape.n_layer) else "Q4_K"


def _layer(tensor: Tensor) -> int:
    return int(tensor.name.split(".")[1])


def _more_bits(layer: int, n_layer: int) -> bool:
    """llama-quant.cpp, use_more_bits: the first and last eighth, and every third between."""
    eighth = n_layer // 8
    return layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2


def stored_bytes(tensor: Tensor, ggml_type: str) -> int:
    """Size of `tensor` in a file."""
    return row_bytes(ggml_type, tensor.columns) * tensor.n_rows


def random_weights(tensor: Tensor, ggml_type: str, seed: int) -> npt.NDArray[np.uint8]:
    """The stored bytes of `tensor`, filled from (seed, name): the same in every file.

    Works through CHUNK_VALUES values at a time, so a large tensor costs its stored size only. One
    of more than REPEAT_VALUES repeats its first chunk: random numbers would cost most of the time.
    """
    source = np.random.Generator(np.random.SFC64([seed, zlib.crc32(tensor.name.encode())]))
    rows, size = tensor.n_rows, row_bytes(ggml_type, tensor.columns)
    stored = np.empty((rows, size), np.uint8)
    step = max(1, CHUNK_VALUES // tensor.columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        if start and tensor.n_values > REPEAT_VALUES:
            stored[start : start + count] = stored[:count]
            continue
        values = _values(tensor, count, source)
        quantise_rows(values, ggml_type, stored[start : start + count])
    return stored.reshape(-1)


def _values(tensor: Tensor, rows: int, source: np.random.Generator) -> npt.NDArray[np.float32]:
    """Values whose products keep the scale of their input: std = 1/sqrt(input width).

    `decay` is mamba's A = -exp(A_log), from -1 to -16; `time_step` the inverse softplus of small
    steps (state-spaces/mamba, mamba_ssm/modules/mamba2.py).
    """
    size = (rows, tensor.columns)
    if tensor.fill in ("ones", "zeros"):
        return np.full(size, tensor.fill == "ones", np.float32)
    if tensor.fill == "decay":
        return -source.uniform(1, 16, size).astype(np.float32)
    if tensor.fill == "time_step":
        return source.uniform(-7, -2, size).astype(np.float32)
    values = source.standard_normal(size, dtype=np.float32)
    values *= np.float32(tensor.columns**-0.5)
    return values
