"""Random LoRA adapters for tests: as GGUF, and merged into the weights of an F32 model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from okno.core.header import TensorInfo
from okno.inspect.header import read_header

Floats = NDArray[np.float32]
ALPHA = 16.0


@dataclass(frozen=True)
class Factors:
    """a: rank x inputs, b: outputs x rank; of experts, one after the other."""

    a: Floats
    b: Floats

    @property
    def product(self) -> Floats:
        """What is added to the weights, as they lie in the file: outputs x inputs."""
        return (self.b @ self.a) * np.float32(ALPHA / self.b.shape[-1])


def is_matrix(tensor: TensorInfo) -> bool:
    return len(tensor.dimensions) > 1 and tensor.name != "token_embd.weight"


def random_factors(
    base: Path,
    rank: int = 4,
    seed: int = 0,
    wanted: Callable[[TensorInfo], bool] = is_matrix,
    size: float = 0.3,
) -> dict[str, Factors]:
    """An adapter for the wanted tensors of the GGUF model `base`."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Floats:
        return (size * rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

    found = {}
    for tensor in filter(wanted, read_header(base).tensors):
        inputs, outputs, *experts = tensor.dimensions
        found[tensor.name] = Factors(
            normal(*experts, rank, inputs), normal(*experts, outputs, rank)
        )
    return found


def write_adapter(
    path: Path,
    factors: Mapping[str, Factors],
    *,
    architecture: str = "llama",
    alpha: float = ALPHA,
    more: Mapping[str, Floats] | None = None,
) -> Path:
    """A GGUF adapter; more: further tensors by their whole name."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, found in factors.items():
        writer.add_tensor(f"{name}.lora_a", found.a)
        writer.add_tensor(f"{name}.lora_b", found.b)
    for name, data in (more or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(base: Path, factors: Mapping[str, Factors], path: Path, scale: float = 1.0) -> Path:
    """A copy of the F32 model `base` with the adapter added to its weights."""
    shutil.copyfile(base, path)
    reader = gguf.GGUFReader(str(path), "r+")
    for tensor in reader.tensors:
        if tensor.name in factors:
            tensor.data[:] += np.float32(scale) * factors[tensor.name].product
    reader.data.flush()
    return path
