"""Which storage type each tensor gets in a file of a given type: llama-quantize's rules.

Source: llama.cpp, src/llama-quant.cpp (tensor_allows_quantization, llama_tensor_get_type_impl,
tensor_type_fallback). A test compares with the quantiser itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from okno.core.header import TensorInfo
from okno.inspect.gguf_types import BY_NAME, tensor_bytes

Shape = tuple[str, tuple[int, ...]]

# The type of most tensors of a file of that type. Left out: types that need an importance matrix.
DEFAULTS = {
    "F32": "F32", "F16": "F16", "BF16": "BF16", "Q8_0": "Q8_0", "Q4_0": "Q4_0", "Q4_1": "Q4_1",
    "Q5_0": "Q5_0", "Q5_1": "Q5_1", "Q2_K": "Q2_K", "Q3_K_S": "Q3_K",
    "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K", "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K", "Q6_K": "Q6_K", "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS",
    "MXFP4_MOE": "MXFP4",
}  # fmt: skip
FALLBACK = {
    "IQ4_XS": "IQ4_NL", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}  # fmt: skip
# Tensors with these in their name are never quantised ...
KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "shortconv.conv.weight", "altup",
    "laurel", "per_layer_model_proj", "position_embd", "token_types", "attn_rel_b.weight",
)  # fmt: skip
# ... and these of them are stored in 16 bits, the others in 32.
KEPT_IN_16_BITS = ("altup", "laurel", "per_layer_model_proj")
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
LIKE_V = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")


@dataclass(slots=True)
class Mixture:
    """What the rules look at, and how many tensors of a kind they have seen."""

    architecture: str
    file_type: str
    n_layer: int
    n_gqa: int
    n_expert: int
    is_tied: bool
    is_70b: bool
    n_v: int
    i_v: int = 0
    i_down: int = 0


def typed(
    shapes: Sequence[Shape],
    file_type: str,
    *,
    architecture: str,
    n_layer: int,
    n_gqa: int = 1,
    n_expert: int = 0,
) -> tuple[TensorInfo, ...]:
    """The tensors of `shapes` as a file of `file_type` (one of DEFAULTS) stores them, in the order
    given, which must go by blocks. n_gqa: query heads per KV head, 0 without attention."""
    names = {name for name, _ in shapes}
    rules = Mixture(
        architecture,
        file_type,
        n_layer,
        n_gqa,
        n_expert,
        is_tied="output.weight" not in names,
        is_70b=n_layer == 80 and n_gqa > 1 and architecture in ("llama", "qwen2", "deci"),
        n_v=sum(name.endswith(LIKE_V) for name in names),
    )
    return tuple(_tensor(rules, name, dimensions) for name, dimensions in shapes)


def _tensor(rules: Mixture, name: str, dimensions: tuple[int, ...]) -> TensorInfo:
    kind = BY_NAME[_type(rules, name, dimensions)]
    return TensorInfo(name, kind.name, dimensions, tensor_bytes(kind, dimensions))


def _type(rules: Mixture, name: str, dimensions: tuple[int, ...]) -> str:
    default = DEFAULTS[rules.file_type]
    if not _may_be_quantised(name, dimensions):
        in_16_bits = rules.file_type != "F32" and any(part in name for part in KEPT_IN_16_BITS)
        return "F16" if in_16_bits and len(dimensions) > 1 else "F32"
    if not BY_NAME[default].is_quantised:
        return default
    return _fitting(_mixed(rules, name, dimensions, default), dimensions[0])


def _may_be_quantised(name: str, dimensions: tuple[int, ...]) -> bool:
    n_dimensions = max((i + 1 for i, size in enumerate(dimensions) if size > 1), default=1)
    if n_dimensions < 2 or not name.endswith("weight"):
        return False
    return not any(part in name for part in KEPT)


def _fitting(wanted: str, columns: int) -> str:
    """`wanted`, or a type with smaller blocks when a row is no whole number of them."""
    if columns % BY_NAME[wanted].block_values:
        wanted = FALLBACK.get(wanted, wanted)
    return "F16" if columns % BY_NAME[wanted].block_values else wanted


def _mixed(rules: Mixture, name: str, dimensions: tuple[int, ...], default: str) -> str:
    embeds = name in EMBEDDINGS
    if name == "output.weight" or (embeds and rules.is_tied):
        return _output(rules, dimensions[0], default)
    if rules.file_type == "MXFP4_MOE":
        return "MXFP4" if len(dimensions) > 2 and dimensions[2] > 1 else "Q8_0"
    if embeds:
        return default
    if name.endswith(LIKE_V):
        return _like_v(rules, default)
    if name.endswith("attn_k.weight") and rules.n_expert == 8:
        return "Q8_0"
    if "ffn_down" in name and ".weight" in name:
        return _down(rules, name, default)
    if name.endswith("attn_output.weight"):
        return _attention_output(rules, default)
    return default


def _output(rules: Mixture, columns: int, default: str) -> str:
    if rules.file_type == "MXFP4_MOE" or rules.architecture == "falcon":
        return "Q8_0"
    if columns % BY_NAME[default].block_values:
        return "Q8_0"
    return default if default == "Q8_0" else "Q6_K"


def _like_v(rules: Mixture, default: str) -> str:
    i, rules.i_v = rules.i_v, rules.i_v + 1
    many = rules.n_gqa >= 4
    found = {
        "Q2_K": "Q4_K" if many else "Q3_K",
        "Q3_K_M": "Q5_K" if i < 2 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "IQ4_NL": "Q5_K" if many else default,
        "IQ4_XS": "Q5_K" if many else default,
        "Q4_K_M": "Q6_K" if _more_bits(i, rules.n_v) else default,
        "Q5_K_M": "Q6_K" if _more_bits(i, rules.n_v) else default,
        "Q4_K_S": "Q5_K" if i < 4 else default,
    }.get(rules.file_type, default)
    if rules.is_70b and found in ("Q3_K", "Q4_K"):
        found = "Q5_K"
    return "Q8_0" if rules.n_expert == 8 else found


def _down(rules: Mixture, name: str, default: str) -> str:
    i, rules.i_down = rules.i_down, rules.i_down + 1
    if rules.n_expert > 1:
        i = int(name.split(".")[1])
    n = rules.n_layer
    if rules.architecture == "falcon":
        return default
    by_type: dict[str, Callable[[], str]] = {
        "Q2_K": lambda: "Q3_K",
        "Q3_K_M": lambda: "Q5_K" if i < n // 16 else "Q4_K",
        "Q3_K_L": lambda: "Q5_K",
        "Q4_K_M": lambda: "Q6_K" if _more_bits(i, n) else default,
        "Q5_K_M": lambda: "Q6_K" if _more_bits(i, n) else default,
        "Q4_K_S": lambda: "Q5_K" if i < n // 8 else default,
        "IQ4_NL": lambda: "Q5_K" if i < n // 8 else default,
        "IQ4_XS": lambda: "Q5_K" if i < n // 8 else default,
    }
    return by_type.get(rules.file_type, lambda: default)()


def _attention_output(rules: Mixture, default: str) -> str:
    finer_with_8_experts = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M")
    if rules.n_expert == 8:
        return "Q5_K" if rules.file_type in finer_with_8_experts else default
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(rules.file_type, default)


def _more_bits(i: int, n: int) -> bool:
    """use_more_bits: the first and last eighth, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
