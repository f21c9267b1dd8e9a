"""The families that can be converted: a row each. Adding one is a row here and a test.

Sources: llama.cpp, conversion/*.py (what is done to the weights) and src/models/*.cpp (what the
engine computes, whatever the file says: a configuration that asks for something else is refused).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from okno.core.errors import ModelUnusable
from okno.inspect.header_safetensors import Described

Slides = Literal["engine", "never"]
SILU = ("silu", "swish")
GELU = ("gelu_pytorch_tanh",)


@dataclass(frozen=True, slots=True)
class Family:
    """permutes: rows of query and key projections go from halves to pairs (llama.cpp turns
    neighbouring values, transformers the halves of a head). norm_shift: added to the weights of
    norms. rope: kinds of stretched positions that the engine computes. slides: whether the engine
    honours a sliding window. demands: settings that may have this value only. activations: of the
    feed-forward part."""

    permutes: bool = False
    norm_shift: float = 0.0
    rope: tuple[str, ...] = ("default", "dynamic", "linear", "yarn")
    slides: Slides = "never"
    activations: tuple[str, ...] = SILU
    demands: Mapping[str, object] = field(default_factory=dict)


LLAMA = Family(permutes=True, rope=("default", "dynamic", "linear", "yarn", "llama3", "longrope"))
GEMMA = Family(
    norm_shift=1.0, rope=("default", "linear"), slides="engine", activations=GELU
)  # fmt: skip
# By the model_type of config.json.
FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "mixtral": LLAMA,
    "qwen2": Family(),
    "qwen2_moe": Family(
        demands={"norm_topk_prob": False, "decoder_sparse_step": 1, "tie_word_embeddings": False}
    ),
    "qwen3": Family(),
    "qwen3_moe": Family(demands={"norm_topk_prob": True, "decoder_sparse_step": 1}),
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": Family(rope=("default", "dynamic", "longrope")),
    "smollm3": Family(permutes=True),
}
# What transformers takes where the configuration is silent.
SILENT: Mapping[str, object] = {
    "norm_topk_prob": False, "decoder_sparse_step": 1, "tie_word_embeddings": False
}  # fmt: skip


def family_of(model: Described) -> Family:
    """The row of `model`. Raises ModelUnusable for a family without one, and for a model that the
    engine would compute in another way than it was trained."""
    kind = model.config.model_type
    family = FAMILIES.get(kind)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise ModelUnusable(
            f"{model.where} is of the kind {kind!r}; these can be converted: {known}. Give a GGUF "
            "file of the model instead."
        )
    if model.rope.kind not in family.rope:
        raise _otherwise(model, "rope_scaling", model.rope.kind, family.rope)
    config = model.config
    activation = config.text("hidden_activation") or config.text("hidden_act")
    if activation is not None and activation not in family.activations:
        raise _otherwise(model, "hidden_act", activation, family.activations)
    for key, demanded in family.demands.items():
        said = config.value(key, SILENT[key])
        if said != demanded:
            raise _otherwise(model, key, said, (demanded,))
    _check_layers(model)
    return family


def _check_layers(model: Described) -> None:
    """Which layers are of which kind: as the engine builds them."""
    config, sizes = model.config, model.sizes
    turned_share = model.rope.n_rot / sizes.head_dim
    if turned_share > 1 or (sizes.architecture == "llama" and turned_share < 1):
        # llama-model.cpp, load_hparams: "invalid n_rot"
        raise _otherwise(model, "partial_rotary_factor", turned_share, (1.0,))
    if config.value("mlp_only_layers", []):
        raise _otherwise(model, "mlp_only_layers", config.value("mlp_only_layers", []), ([],))
    if sizes.architecture == "smollm3":
        turned = [int((il + 1) % 4 != 0) for il in range(sizes.n_layer)]
        if (said := config.value("no_rope_layers", turned) or turned) != turned:
            raise _otherwise(model, "no_rope_layers", said, (turned,))
    if sizes.architecture in ("phi3", "qwen2moe") and sizes.head_dim * sizes.n_head != sizes.n_embd:
        wanted = sizes.n_embd // sizes.n_head
        raise _otherwise(model, "head_dim", sizes.head_dim, (wanted,))
    capping = "attn_logit_softcapping"
    if sizes.architecture == "gemma2" and config.says(capping) and not config.real(capping, 0.0):
        raise _otherwise(model, capping, None, ("a number",))
    if sizes.architecture in ("gemma2", "gemma3"):
        # llama.cpp, gemma2.cpp and gemma3.cpp: f_attention_scale; the 27B models differ
        is_27b = sizes.n_layer == (46 if sizes.architecture == "gemma2" else 62)
        wanted = sizes.n_embd // sizes.n_head if is_27b else sizes.head_dim
        if (said := config.value("query_pre_attn_scalar", wanted)) != wanted:
            raise _otherwise(model, "query_pre_attn_scalar", said, (wanted,))


def notes_on(model: Described, family: Family) -> tuple[str, ...]:
    """What the converted model does otherwise than the original, in sentences for its user."""
    config, found = model.config, []
    window = config.number("sliding_window") or 0
    is_on = config.flag("use_sliding_window") is not False
    if family.slides == "never" and is_on and 0 < window < model.sizes.ctx_train:
        found.append(
            f"{model.name} was trained to see the last {window} tokens in some layers; the engine "
            f"lets them see all. Up to {window} tokens it computes the same, beyond it may differ."
        )
    if model.rope.kind == "dynamic":
        found.append(
            f"{model.name} stretches its positions when a text exceeds {model.rope.ctx} tokens; "
            "the engine does not, so that is its context window."
        )
    return tuple(found)


def _otherwise(
    model: Described, key: str, said: object, possible: tuple[object, ...]
) -> ModelUnusable:
    shown = " or ".join(str(item)[:80] for item in possible)
    return ModelUnusable(
        f"{model.where} is a model with {key} = {str(said)[:80]}; the engine computes its kind "
        f"({model.config.model_type}) with {shown} only, and would answer nonsense. Give a GGUF "
        "file of it from a publisher who says that llama.cpp runs it, or another model."
    )
