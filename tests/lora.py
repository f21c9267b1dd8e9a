"""Random LoRA adapters for tests: as GGUF, and merged into the weights of an F32 model."""

from __future__ import annotations

import json
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


# PEFT's format ---------------------------------------------------------------------------------

HF_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_qkv": "self_attn.qkv_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}  # fmt: skip
CONFIG: dict[str, object] = {"peft_type": "LORA", "r": 4, "lora_alpha": ALPHA, "bias": "none"}


def module_of(name: str, architecture: str) -> str:
    """What transformers calls the layer of a GGUF tensor."""
    if name == "output.weight":
        return "lm_head"
    if name == "token_embd.weight":
        return "model.embed_tokens"
    _, layer, part, _ = name.split(".")
    hf = "mlp.gate_up_proj" if (architecture, part) == ("phi3", "ffn_up") else HF_NAMES[part]
    return f"model.layers.{layer}.{hf}"


def halves_of_pairs(rows: Floats, head_dim: int) -> Floats:
    """Rows of llama.cpp's order (neighbours are turned) in transformers' (halves of a head are)."""
    taken = [
        head + pair + half
        for head in range(0, len(rows), head_dim)
        for half in (0, 1)
        for pair in range(0, head_dim, 2)
    ]
    return rows[taken]


def peft_tensors(base: Path, factors: Mapping[str, Factors]) -> dict[str, Floats]:
    """`factors` of the GGUF model `base` under PEFT's names, as trained with transformers."""
    header = read_header(base)
    found: dict[str, Floats] = {}
    for name, one in factors.items():
        parts = [one] if one.a.ndim == 2 else [Factors(*both) for both in zip(one.a, one.b)]  # noqa: B905
        for expert, part in enumerate(parts):
            b = part.b
            if header.architecture == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
                b = halves_of_pairs(b, header.layers[0].head_dim)
            if one.a.ndim == 3:
                _, layer, kind, _ = name.split(".")
                kind = kind.removeprefix("ffn_").removesuffix("_exps")
                module = f"model.layers.{layer}.mlp.experts.{expert}.{kind}_proj"
            else:
                module = module_of(name, header.architecture)
            found[f"base_model.model.{module}.lora_A.weight"] = part.a
            found[f"base_model.model.{module}.lora_B.weight"] = b
    return found


def write_peft(
    folder: Path, tensors: Mapping[str, Floats], dtype: str = "F32", **config: object
) -> Path:
    """An adapter as PEFT saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    stored = {name: _stored(values, dtype) for name, values in tensors.items()}
    header: dict[str, object] = {}
    at = 0
    for name, data in stored.items():
        offsets = [at, at + len(data)]
        header[name] = {"dtype": dtype, "shape": tensors[name].shape, "data_offsets": offsets}
        at += len(data)
    text = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(stored.values()))
    return folder


def _stored(values: Floats, dtype: str) -> bytes:
    if dtype == "BF16":
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
