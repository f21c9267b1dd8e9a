"""LoRA adapters in PEFT's format, written as GGUF adapters for one model.

What is added to a layer is scaling * B A. The engine computes scale * alpha / rank * B A with one
alpha for all (okno/inspect/adapter.py), so where PEFT's scaling differs by layer it is multiplied
into B. Values are kept in 32 bits. As llama.cpp's convert_lora_to_gguf.py, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from okno.convert.finite import check_finite
from okno.convert.lora_config import LoraConfig, lora_config
from okno.convert.lora_names import IN_PAIRS, factor_names
from okno.convert.values import as_floats, in_pairs
from okno.core.errors import ModelNotFound, ModelUnusable
from okno.core.header import ModelHeader, TensorInfo
from okno.inspect.adapter import ALPHA, EMBEDDING
from okno.inspect.gguf import Value
from okno.inspect.gguf_write import gguf_header, padded
from okno.inspect.safetensors import StoredTensor, read_json, read_tensors
from okno.inspect.source import LocalSource

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
TURNED = ("attn_q.weight", "attn_k.weight")
Floats = npt.NDArray[np.float32]
Read = Callable[[str], Floats]


@dataclass(frozen=True, slots=True)
class Half:
    """A factor as it is stored: its tensor, and the layer of PEFT's model it belongs to."""

    tensor: str
    module: str
    rank: int


@dataclass(slots=True)
class Layer:
    """The factors of one tensor of the model, by expert; None: it has no experts."""

    a: dict[int | None, Half] = field(default_factory=dict)
    b: dict[int | None, Half] = field(default_factory=dict)

    @property
    def has_experts(self) -> bool:
        return None not in self.a


def write_adapter(folder: Path, base: ModelHeader, path: Path, more: Mapping[str, Value]) -> None:
    """Write the PEFT adapter in `folder` as a GGUF adapter of `base` to `path`. more: further
    values of its header. Raises ModelNotFound, ModelUnusable for the source, OSError for the
    target."""
    config, stored, read = opened(folder)
    layers = _layers(stored, base, str(folder))
    alpha = _common_alpha(layers, config)
    values: dict[str, Value] = {
        "general.architecture": base.architecture,
        "general.type": "adapter",
        "general.name": folder.name,
        "adapter.type": "lora",
        ALPHA: alpha,
        **more,
    }
    tensors = _announced(layers, base, stored)
    with path.open("wb") as file:
        file.write(gguf_header(values, tensors))
        for name, layer in layers.items():
            for data in _values(name, layer, base, read, None if alpha else config):
                file.write(data.tobytes())
                file.write(bytes(padded(data.nbytes) - data.nbytes))


def opened(folder: Path) -> tuple[LoraConfig, Mapping[str, StoredTensor], Read]:
    """The adapter in `folder`: its configuration, its tensors, and a way to read one. Raises
    ModelNotFound, ModelUnusable."""
    with closing(LocalSource(folder / CONFIG)) as source:
        config = lora_config(read_json(source), str(folder))
    if not (folder / WEIGHTS).exists():
        raise _no_weights(folder)
    with closing(LocalSource(folder / WEIGHTS)) as source:
        stored = read_tensors(source)
    for name, tensor in stored.items():
        if tensor.dtype not in DTYPES or len(tensor.shape) != 2 or not tensor.n_values:
            raise ModelUnusable(
                f"{folder / WEIGHTS} stores {name[:120]!r} as {tensor.dtype} of shape "
                f"{tensor.shape}; factors are matrices in F32, F16 or BF16."
            )

    def read(name: str) -> Floats:
        tensor = stored[name]
        values = np.fromfile(
            folder / WEIGHTS, DTYPES[tensor.dtype], tensor.n_values, offset=tensor.offset
        )
        if len(values) != tensor.n_values:
            raise ModelUnusable(f"{folder / WEIGHTS} was cut short while {name!r} was read.")
        check_finite(values, tensor.dtype, name, folder / WEIGHTS)
        return as_floats(values, tensor.dtype).reshape(tensor.shape)

    return config, stored, read


def _no_weights(folder: Path) -> ModelNotFound | ModelUnusable:
    if (folder / PICKLE).exists():
        return ModelUnusable(
            f"{folder / PICKLE} is a pickle, which runs code when it is read; okno opens none. "
            "Save the adapter again with PEFT (save_pretrained writes safetensors), or get it so."
        )
    return ModelNotFound(f"{folder} has no {WEIGHTS}: the weights of the adapter are missing.")


def _layers(stored: Mapping[str, StoredTensor], base: ModelHeader, where: str) -> dict[str, Layer]:
    """The adapted tensors of `base`, in its order, each with all its factors."""
    factor = factor_names(base, where)
    found: dict[str, Layer] = {}
    for name, tensor in stored.items():
        place = factor(name)
        if place is None:
            continue
        layer = found.setdefault(place.tensor, Layer())
        halves, rank = (layer.a, tensor.shape[0]) if place.is_a else (layer.b, tensor.shape[1])
        if place.expert in halves:
            raise ModelUnusable(f"{where} has two factors for {place.module!r}, under two names.")
        halves[place.expert] = Half(name, place.module, rank)
    if not found:
        raise ModelUnusable(f"{where} adapts nothing: {WEIGHTS} holds no factors.")
    for name, layer in found.items():
        _check_whole(name, layer, base, where)
    order = {tensor.name: place for place, tensor in enumerate(base.tensors)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _check_whole(name: str, layer: Layer, base: ModelHeader, where: str) -> None:
    """Both factors of every expert there is, all of one rank."""
    if layer.a.keys() != layer.b.keys():
        raise ModelUnusable(
            f"{where} has only one of the two factors for a part of {name}. Was it saved whole?"
        )
    ranks = {half.rank for half in (*layer.a.values(), *layer.b.values())}
    if len(ranks) != 1:
        raise ModelUnusable(f"{where} gives {name} factors of the ranks {sorted(ranks)}.")
    experts = [expert for expert in layer.a if expert is not None]
    if experts and (None in layer.a or max(experts) >= base.n_expert):
        raise ModelUnusable(
            f"{where} changes expert {max(experts)} of {name}, and {base.name} has {base.n_expert}."
            " Give the adapter with the model it was trained on."
        )


def _common_alpha(layers: Mapping[str, Layer], config: LoraConfig) -> float:
    """The alpha for which alpha / rank is the scaling of every layer; 0 where there is none: then
    the engine multiplies by nothing."""
    alphas = {
        np.float32(config.scaling(half.module, half.rank) * half.rank)
        for layer in layers.values()
        for half in layer.b.values()
    }
    return float(alphas.pop()) if len(alphas) == 1 else 0.0


def planned(folder: Path, base: ModelHeader) -> tuple[TensorInfo, ...]:
    """The tensors that write_adapter would write; errors likewise."""
    _, stored, _ = opened(folder)
    return _announced(_layers(stored, base, str(folder)), base, stored)


def _announced(
    layers: Mapping[str, Layer], base: ModelHeader, stored: Mapping[str, StoredTensor]
) -> tuple[TensorInfo, ...]:
    return tuple(
        tensor for name, layer in layers.items() for tensor in _pair(name, layer, base, stored)
    )


def _pair(
    name: str, layer: Layer, base: ModelHeader, stored: Mapping[str, StoredTensor]
) -> Iterator[TensorInfo]:
    """The two tensors of a layer as they will be written, dimensions in ggml's order."""
    for ending, halves in (("lora_a", layer.a), ("lora_b", layer.b)):
        rows, columns = stored[next(iter(halves.values())).tensor].shape
        turned = name == EMBEDDING and halves is layer.a
        dimensions = (rows, columns) if turned else (columns, rows)
        all_of_it = (*dimensions, base.n_expert) if layer.has_experts else dimensions
        size = math.prod(all_of_it) * np.dtype(np.float32).itemsize
        yield TensorInfo(f"{name}.{ending}", "F32", all_of_it, size)


def _values(
    name: str, layer: Layer, base: ModelHeader, read: Read, config: LoraConfig | None
) -> Iterator[Floats]:
    """Their values. config: B is multiplied by the scaling it gives; None: the engine does that."""
    embeds = name == EMBEDDING  # a row of A is looked up for each token
    firsts = {e: read(half.tensor) for e, half in layer.a.items()}
    yield _whole({e: a.T if embeds else a for e, a in firsts.items()}, base.n_expert)
    turned = base.architecture in IN_PAIRS and name.endswith(TURNED)
    seconds = {}
    for expert, half in layer.b.items():
        b = read(half.tensor)
        b = in_pairs(b, base.layers[0].head_dim) if turned else b
        scaling = config.scaling(half.module, half.rank) if config else 1.0
        seconds[expert] = b * np.float32(scaling)
    yield _whole(seconds, base.n_expert)


def _whole(parts: Mapping[int | None, Floats], n_expert: int) -> Floats:
    """One after the other; an expert that is not adapted gets zeros."""
    if None in parts:
        return np.ascontiguousarray(parts[None])
    nothing = np.zeros_like(next(iter(parts.values())))
    return np.stack([parts.get(expert, nothing) for expert in range(n_expert)])
