"""LoRA adapters in GGUF: the header, and whether it fits a model. Never trusts the file.

Format and checks: llama.cpp, src/llama-adapter.cpp, llama_adapter_lora_init_impl. An adapter holds
pairs: `NAME.lora_a` (rank x inputs) and `NAME.lora_b` (outputs x rank) for the model's tensor NAME,
to whose product scale * alpha / rank * B A x is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from okno.core.errors import ModelUnusable
from okno.core.header import ModelHeader, TensorInfo
from okno.inspect.gguf import GgufHeader, read_gguf_file
from okno.inspect.gguf_types import BY_NAME
from okno.inspect.source import LocalSource

ALPHA = "adapter.lora.alpha"
REORDERED = "okno.reordered"  # written by okno/convert/ready.py
INVOCATION = "adapter.alora.invocation_tokens"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
FLOATS = ("F32", "F16", "BF16")
CONVOLUTIONS = ("conv1d.weight", "conv.weight")
# Of these llama.cpp's src/models multiply some matrices without adapters (not by build_lora_mm).
UNEVEN = frozenset(
    {
        "bailingmoe3", "deepseek2", "deepseek2-ocr", "deepseek32", "deepseek4", "dflash",
        "dots3note", "gemma3n", "gemma4-assistant", "glm-dsa", "glm5-next", "graniteswitch",
        "hy_v4", "kimi-k3", "kimi-linear", "minicpm3", "mistral4", "nemotron_h", "nemotron_h_moe",
        "plm", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """The two factors of what is added to the tensor `name`."""

    name: str
    a: TensorInfo
    b: TensorInfo

    @property
    def n_bytes(self) -> int:
        return self.a.n_bytes + self.b.n_bytes

    @property
    def rank(self) -> int:
        return self.b.dimensions[0]


@dataclass(frozen=True, slots=True)
class AdapterHeader:
    """where: for messages. left_out: vectors of norms, which the engine does not apply."""

    where: str
    architecture: str
    alpha: float
    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        return sum(pair.n_bytes for pair in self.pairs)


def read_adapter(path: Path) -> AdapterHeader:
    """The adapter in the file `path`. Raises ModelNotFound, ModelUnusable."""
    with closing(LocalSource(path)) as source:
        found = read_gguf_file(source)
    _check_kind(path, found)
    architecture, alpha = found.values.get("general.architecture"), found.values.get(ALPHA, 0.0)
    if not isinstance(architecture, str) or not isinstance(alpha, float):
        raise ModelUnusable(
            f"{path} says neither soundly for which architecture it is ({architecture!r}) nor its "
            f"alpha ({alpha!r}). Convert the adapter again."
        )
    pairs, left_out = _pairs(path, found.tensors)
    return AdapterHeader(str(path), architecture, alpha, pairs, left_out)


def check_adapter(adapter: AdapterHeader, base: ModelHeader) -> None:
    """Raise ModelUnusable unless the adapter fits `base`."""
    if adapter.architecture != base.architecture:
        raise ModelUnusable(
            f"{adapter.where} is an adapter for {adapter.architecture} models, and {base.name} is "
            f"a {base.architecture} model. Give the adapter with the model it was trained on."
        )
    if base.is_embedding_model or base.architecture in UNEVEN:
        kind = "an embedding" if base.is_embedding_model else f"a {base.architecture}"
        raise ModelUnusable(
            f"{base.name} is {kind} model, of which the engine would apply adapters to some "
            "matrices only, or to none. Leave out --lora, or merge the adapter into the model."
        )
    if base.metadata.get(REORDERED):
        raise ModelUnusable(
            f"{base.name} was converted from GPTQ weights whose order of rows was changed, and "
            f"{adapter.where} is in the order they had. Give a GGUF file of the model that others "
            "published, or convert its unquantised weights (--load-in-4bit) and use that."
        )
    tensors = {tensor.name: tensor for tensor in base.tensors}
    for pair in adapter.pairs:
        _check_pair(adapter, pair, tensors, base.name)


def _check_kind(path: Path, found: GgufHeader) -> None:
    kind, adapter_kind = found.values.get("general.type"), found.values.get("adapter.type")
    if kind != "adapter":
        raise ModelUnusable(
            f"{path} is no adapter (its general.type is {kind!r}). Give a model to --model, and to "
            "--lora an adapter: a GGUF one, or a folder with adapter_config.json."
        )
    if adapter_kind != "lora":
        raise ModelUnusable(f"{path} is an adapter of type {adapter_kind!r}; only LoRA is known.")
    if INVOCATION in found.array_lengths:
        raise ModelUnusable(
            f"{path} is an activated LoRA (aLoRA): it is to be applied only after certain tokens "
            "of a prompt, which okno cannot do. Use a plain LoRA."
        )


def _pairs(path: Path, tensors: tuple[TensorInfo, ...]) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The pairs, and the names of norms."""
    halves: dict[str, dict[str, TensorInfo]] = {}
    left_out = []
    for tensor in tensors:
        name, _, half = tensor.name.rpartition(".")
        if half in ("lora_a", "lora_b"):
            halves.setdefault(name, {})[half] = tensor
        elif tensor.name.endswith("_norm.weight"):
            left_out.append(tensor.name)
        else:
            raise ModelUnusable(
                f"{path} holds {tensor.name!r}, which is no part of a LoRA (.lora_a, .lora_b): "
                "whole tensors cannot be replaced. Merge the adapter into the model instead."
            )
    lonely = next((name for name, found in halves.items() if len(found) != 2), None)
    if lonely is not None or not halves:
        what = f"only one half of {lonely!r}" if lonely else "nothing to apply"
        raise ModelUnusable(f"{path} holds {what}. Convert the adapter again.")
    pairs = (Pair(name, found["lora_a"], found["lora_b"]) for name, found in halves.items())
    return tuple(pairs), tuple(left_out)


def _check_pair(
    adapter: AdapterHeader, pair: Pair, tensors: dict[str, TensorInfo], model: str
) -> None:
    target = tensors.get(pair.name)
    if target is None and pair.name == OUTPUT:
        raise _tied(adapter, model, "output (lm_head)")
    if target is None:
        raise ModelUnusable(
            f"{adapter.where} changes {pair.name!r}, which {model} does not have. Give the adapter "
            "with the model it was trained on."
        )
    if pair.name == EMBEDDING and OUTPUT not in tensors:
        raise _tied(adapter, model, "embedding")
    if pair.name.endswith(CONVOLUTIONS) or not pair.name.endswith(".weight"):
        raise ModelUnusable(
            f"{adapter.where} changes {pair.name!r}, to which the engine applies no adapter. Merge "
            "it into the model instead."
        )
    if any(not _fits_type(half) for half in (pair.a, pair.b)):
        raise ModelUnusable(
            f"{adapter.where} stores {pair.name!r} as {pair.a.type} and {pair.b.type}; F32, F16, "
            "BF16 and quantised types can be applied. Convert the adapter again."
        )
    if not _fits(pair, target.dimensions):
        raise ModelUnusable(
            f"{adapter.where} changes {pair.name!r} by {_shape(pair.b)} x {_shape(pair.a)}, and in "
            f"{model} that is {_shape(target)}. Give the adapter with the model it was trained on."
        )


def _tied(adapter: AdapterHeader, model: str, what: str) -> ModelUnusable:
    return ModelUnusable(
        f"{adapter.where} changes the {what}, which in {model} is embedding and output at once: "
        "the engine cannot apply it to one of them. Merge the adapter into the model instead."
    )


def _fits_type(tensor: TensorInfo) -> bool:
    kind = BY_NAME[tensor.type]
    return kind.is_quantised or tensor.type in FLOATS


def _fits(pair: Pair, target: tuple[int, ...]) -> bool:
    """a is (inputs, rank), b (rank, outputs) in ggml's order, and so many experts; for the
    embedding a is (rank, tokens), b (rank, width) (llm_graph_context::build_inp_embd)."""
    a, b = _squeezed(pair.a.dimensions), _squeezed(pair.b.dimensions)
    if len(a) != len(b) or not 2 <= len(a) == len(target) <= 3:
        return False
    inputs, outputs, experts = target[0], target[1], target[2:]
    if pair.name == EMBEDDING:
        return a == (b[0], outputs) and b[1] == inputs
    return a == (inputs, b[0], *experts) and b == (b[0], outputs, *experts)


def _squeezed(dimensions: tuple[int, ...]) -> tuple[int, ...]:
    """Without the ones at the end, down to two dimensions."""
    while len(dimensions) > 2 and dimensions[-1] == 1:
        dimensions = dimensions[:-1]
    return dimensions


def _shape(tensor: TensorInfo) -> str:
    """Rows first, as people write a matrix."""
    return "(" + ", ".join(map(str, _reversed(tensor.dimensions))) + ")"


def _reversed(dimensions: tuple[int, ...]) -> Iterator[int]:
    return reversed(dimensions)
