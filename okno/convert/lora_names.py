"""Names of PEFT's tensors, and which tensor of a GGUF model each belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from okno.core.errors import ModelUnusable
from okno.core.header import ModelHeader

FACTOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])"
    r"(?:\.(?!weight$)[\w-]+)?(?:\.weight)?"
)
EXPERT = re.compile(r"(?P<block>.*layers\.\d+\.(?:mlp|block_sparse_moe))\.experts\.(?P<expert>\d+)"
                    r"\.(?P<part>\w+)")  # fmt: skip
EXPERT_PARTS = {
    "gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down",
    "w2": "down",
}  # fmt: skip
# Where a model is the language part of a larger one, its names have these in front.
INNER = (("language_model.model.", "model."), ("model.language_model.", "model."),
         ("language_model.lm_head", "lm_head"), ("model.text_model.", "model."))  # fmt: skip
COPY = ".base_layer.weight"  # of the model's own weights
# Architectures whose names and layouts are known (okno/convert/families.py), and those of them
# whose query and key rows the engine has in pairs (conversion/llama.py, permute).
KNOWN = ("gemma2", "gemma3", "llama", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3")
IN_PAIRS = ("llama", "smollm3")


@dataclass(frozen=True, slots=True)
class Factor:
    """One half (is_a: that of the inputs) of what is added to `tensor` (a GGUF name), or to one
    expert of it."""

    module: str
    tensor: str
    is_a: bool
    expert: int | None = None


def factor_names(base: ModelHeader, where: str) -> Callable[[str], Factor | None]:
    """From the name of a PEFT tensor to its place in `base`; None: a copy of the model's weights,
    which is left out. Raises ModelUnusable, also when called, for a name without a place."""
    if base.architecture not in KNOWN:
        raise ModelUnusable(
            f"{where} is an adapter for {base.name}, a {base.architecture} model; adapters of "
            f"{', '.join(KNOWN)} can be converted. Give a GGUF adapter, made by llama.cpp's "
            "convert_lora_to_gguf.py."
        )
    rename = _renaming(base)

    def factor(name: str) -> Factor | None:
        if name.endswith(COPY):
            return None
        found = FACTOR.fullmatch(name)
        if found is None:
            raise _no_factor(name, where)
        module = found["module"]
        tensor, expert = _place(module, rename)
        if tensor is None:
            raise ModelUnusable(
                f"{where} changes {module[:120]!r}, for which a {base.architecture} model has no "
                "tensor. Give the adapter with the model it was trained on."
            )
        return Factor(module, tensor, found["half"] == "A", expert)

    return factor


def _place(module: str, rename: Callable[[str], str | None]) -> tuple[str | None, int | None]:
    """The tensor, and the expert in it."""
    plain = module
    for inner, outer in INNER:
        if module.startswith(inner):
            plain = outer + module.removeprefix(inner)
    one = EXPERT.fullmatch(plain)
    if one is None:
        return rename(f"{plain}.weight"), None
    layer = re.search(r"layers\.(\d+)\.", plain)
    part = EXPERT_PARTS.get(one["part"])
    if layer is None or part is None:
        return None, None
    return f"blk.{layer[1]}.ffn_{part}_exps.weight", int(one["expert"])


def _renaming(base: ModelHeader) -> Callable[[str], str | None]:
    """By the gguf package's table of this architecture."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[base.architecture], base.n_layer)

    def rename(name: str) -> str | None:
        found: str | None = table.get_name(name, try_suffixes=(".weight",))
        return found

    return rename


def _no_factor(name: str, where: str) -> ModelUnusable:
    kind = "a DoRA (magnitudes)" if "lora_magnitude" in name else "a whole tensor"
    return ModelUnusable(
        f"{where} holds {name[:120]!r}: {kind}, which cannot be added to a model while it computes "
        "(new tokens, trained norms, biases and layers saved whole are such). Merge the adapter "
        "into its model with PEFT (merge_and_unload) and convert the result."
    )
