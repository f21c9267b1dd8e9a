"""What the GGUF of a converted model says of itself, beside the vocabulary.

Keys: ggml's docs/gguf.md and llama.cpp's src/llama-arch.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from okno.convert.fields import Field
from okno.convert.rope_factors import longrope_attention, yarn_attention
from okno.core.header import TensorInfo
from okno.inspect.gguf import Value
from okno.inspect.gguf_types import FILE_TYPES
from okno.inspect.header_safetensors import Described
from okno.inspect.safetensors_config import Config
from okno.inspect.safetensors_rope import Rope

NUMBERS = {name: number for number, name in FILE_TYPES.items()}
# general.file_type of a file whose weights are mostly of this type (Q4_K_M holds Q4_K and Q6_K).
MOSTLY = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M"}
EPSILON = 1e-6
PHI3_TOKENS = ("</s>", "<unk>", "<s>", "<|endoftext|>")


def metadata_of(
    model: Described, file_type: str, n_params: int, vocabulary: Mapping[str, Field]
) -> dict[str, Field]:
    """The values of the header: general ones, those of the architecture, and the vocabulary."""
    config, architecture, moe = model.config, model.sizes.architecture, model.sizes.moe
    own: dict[str, Value] = {
        "attention.layer_norm_rms_epsilon": config.real("rms_norm_eps", EPSILON)
    }
    own |= _rope_values(model.rope, architecture)
    own |= _capping(config, architecture)
    if architecture == "phi3":
        own["attention.sliding_window"] = 0  # the engine asks for the key and slides not at all
    return {
        **model.values,
        **{f"{architecture}.{key}": value for key, value in own.items()},
        "general.type": "model",
        "general.name": _shown_name(model, vocabulary),
        "general.size_label": size_label(n_params, moe.n_expert if moe else 0),
        "general.file_type": NUMBERS[file_type],
        "general.quantization_version": 2,
        **vocabulary,
    }


def file_type_of(tensors: Sequence[TensorInfo]) -> str:
    """The name of the type that most weights have."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        if len(tensor.dimensions) > 1:
            counts[tensor.type] = counts.get(tensor.type, 0) + tensor.n_values
    most = max(counts, key=lambda kind: counts[kind], default="F32")
    return most if most in NUMBERS else MOSTLY.get(most, "F16")


def size_label(n_params: int, n_expert: int = 0) -> str:
    """`7.2B`, `135M`; with its number of experts `47B-8E` (of all weights, whichever are used)."""
    for unit, name in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n_params >= unit:
            shown = f"{n_params / unit:.1f}" if n_params < 10 * unit else f"{n_params / unit:.0f}"
            return f"{shown}{name}" + (f"-{n_expert}E" if n_expert else "")
    return str(n_params)


def _shown_name(model: Described, vocabulary: Mapping[str, Field]) -> str:
    """The model's own name, which must hold `phi-3` just where the vocabulary is Phi-3's: by that
    llama.cpp strips white space after its special tokens, and refuses files without these
    (llama-vocab.cpp, load)."""
    name = model.name[:200]
    tokens = vocabulary.get("tokenizer.ggml.tokens")
    has_tokens = isinstance(tokens, tuple) and set(PHI3_TOKENS) <= set(tokens)
    is_named = re.search("phi-?3", name, re.IGNORECASE) is not None
    if has_tokens and model.sizes.architecture == "phi3":
        return name if is_named else f"{name} (phi-3)"
    return re.sub("(phi)-?3", r"\1_3", name, flags=re.IGNORECASE) if is_named else name


def _rope_values(rope: Rope, architecture: str) -> Mapping[str, Value]:
    found: dict[str, Value] = {"rope.dimension_count": rope.n_rot, "rope.freq_base": rope.base}
    if rope.base_local and architecture == "gemma3":
        found["rope.freq_base_swa"] = rope.base_local
    if rope.kind in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope.kind, "rope.scaling.factor": rope.number("factor", 1.0)}
    if rope.kind == "yarn":
        found |= {
            "rope.scaling.original_context_length": rope.original_ctx,
            "rope.scaling.attn_factor": yarn_attention(rope),
            "rope.scaling.yarn_beta_fast": rope.number("beta_fast", 32.0) or 32.0,
            "rope.scaling.yarn_beta_slow": rope.number("beta_slow", 1.0) or 1.0,
        }
    if rope.kind == "longrope":
        found |= {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": rope.original_ctx,
            "rope.scaling.attn_factor": longrope_attention(rope),
        }
    return found


def _capping(config: Config, architecture: str) -> Mapping[str, Value]:
    if not architecture.startswith("gemma"):
        return {}
    defaults = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    found: dict[str, Value] = {}
    for key, default in defaults.items():
        said = config.real(key, 0.0 if config.says(key) or architecture == "gemma3" else default)
        if said:
            found[key] = said
    return found
