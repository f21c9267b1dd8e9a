"""config.json of a Hugging Face model: its shape, and how its weights are stored.

Keys: the configuration classes of transformers; architectures: llama.cpp's conversion/*.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from okno.core.errors import ModelUnusable
from okno.inspect.catalog import Mla, Moe, Recurrent, Shape, SlidingWindow

MAX_NUMBER = 2**31
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
# model_type of transformers to GGUF's architecture.
ARCHITECTURES = {
    "bert": "bert", "deepseek": "deepseek", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2",
    "gemma2": "gemma2", "gemma3": "gemma3", "gemma3_text": "gemma3", "glm4": "glm4",
    "glm4_moe": "glm4moe", "gpt_oss": "gpt-oss", "granite": "granite", "lfm2": "lfm2",
    "lfm2_moe": "lfm2moe", "llama": "llama", "minimax_m2": "minimax-m2", "mistral": "llama",
    "mistral3": "llama", "mixtral": "llama", "olmo2": "olmo2", "olmo3": "olmo2", "phi3": "phi3",
    "qwen2": "qwen2", "qwen2_moe": "qwen2moe", "qwen3": "qwen3", "qwen3_moe": "qwen3moe",
    "qwen3_next": "qwen3next",
    "seed_oss": "seed_oss", "smollm3": "smollm3", "xlm-roberta": "bert",
}  # fmt: skip
DEFAULT_CTX = 2048
# What transformers takes where config.json says nothing (its configuration classes): only what a
# published model leaves out.
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "gemma2": {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096},
    "gemma3_text": {
        "tie_word_embeddings": True, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 131_072, "sliding_window": 4096,
        "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "vocab_size": 262_208,
    },
    "mixtral": {"rope_theta": 1_000_000.0, "rms_norm_eps": 1e-5, "num_key_value_heads": 8},
    "mistral": {"num_key_value_heads": 8},
    "phi3": {"rms_norm_eps": 1e-5},
    "smollm3": {"tie_word_embeddings": True, "rope_theta": 2_000_000.0, "num_key_value_heads": 4},
}  # fmt: skip
METHODS = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "BNB", "fp8": "FP8", "mxfp4": "MXFP4"}
IN_MXFP4 = ("gpt_oss",)  # model types whose experts are packed so, and nothing else of them


@dataclass(frozen=True, slots=True)
class Quantised:
    """How linear layers are packed. method: one of METHODS, or as the file calls it. act_order:
    neighbouring inputs are of different groups."""

    method: str
    bits: int
    is_symmetric: bool = True
    act_order: bool = False

    @property
    def name(self) -> str:
        """`GPTQ-4bit`."""
        return f"{self.method}-{self.bits}bit"


class Config:
    """Numbers of a configuration. where: for messages. The language part of one with several."""

    def __init__(self, where: str, values: Mapping[str, object]) -> None:
        self.where = where
        inner = values.get("text_config")
        joined = {**values, **inner} if isinstance(inner, dict) else dict(values)
        self._values = {**DEFAULTS.get(str(joined.get("model_type")), {}), **joined}

    @property
    def values(self) -> Mapping[str, object]:
        """Everything it says, of the language part first, and the defaults of its kind."""
        return self._values

    @property
    def model_type(self) -> str:
        return str(self._values.get("model_type", ""))[:60]

    def number(self, *keys: str) -> int | None:
        """The first of `keys` that is there. Raises ModelUnusable for what is no size."""
        for key in keys:
            found = self._values.get(key)
            if found is None:
                continue
            if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < MAX_NUMBER:
                raise ModelUnusable(f"{self.where} gives {str(found)[:40]!r} for {key}.")
            return found
        return None

    def needed(self, *keys: str) -> int:
        found = self.number(*keys)
        if not found:
            raise ModelUnusable(
                f"{self.where} does not say its {keys[0]}. Is it the configuration of a language "
                "model?"
            )
        return found

    def real(self, key: str, default: float) -> float:
        found = self._values.get(key, default)
        return float(found) if isinstance(found, int | float) and 0 < found < 1e12 else default

    def texts(self, key: str) -> list[str]:
        found = self._values.get(key)
        return [str(item) for item in found] if isinstance(found, list) else []

    def text(self, key: str) -> str | None:
        found = self._values.get(key)
        return found[:200] if isinstance(found, str) else None

    def flag(self, key: str) -> bool | None:
        """None: it is not said."""
        found = self._values.get(key)
        return found if isinstance(found, bool) else None

    def says(self, key: str) -> bool:
        """Whether the file mentions `key`, be it as null."""
        return key in self._values

    def value(self, key: str, default: object) -> object:
        """Whatever it says for `key`; default: where it says nothing, or null."""
        found = self._values.get(key)
        return default if found is None else found

    def part(self, key: str) -> Mapping[str, object]:
        found = self._values.get(key)
        return found if isinstance(found, dict) else {}


def shape_of(
    config: Config, *, n_vocab: int | None, is_tied: bool, rope_base: float | None = None
) -> Shape:
    """The shape; n_vocab and is_tied as the weights say, rope_base as Rope has it. Raises
    ModelUnusable for a kind that cannot be converted."""
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelUnusable(
            f"{config.where} is of the kind {config.model_type!r}; from safetensors these are "
            f"known: {known}. Give a GGUF file of the model instead."
        )
    n_head, n_layer = config.needed("num_attention_heads"), config.needed("num_hidden_layers")
    if n_layer > MAX_LAYERS:
        raise ModelUnusable(f"{config.where} gives {n_layer} layers; {MAX_LAYERS} are possible.")
    return Shape(
        architecture=architecture,
        n_layer=n_layer,
        n_embd=config.needed("hidden_size"),
        n_ff=config.needed("intermediate_size", "moe_intermediate_size"),
        n_head=n_head,
        n_head_kv=config.number("num_key_value_heads") or n_head,
        head_dim=config.number("head_dim"),
        n_vocab=n_vocab or config.needed("vocab_size"),
        ctx_train=config.number("max_position_embeddings") or DEFAULT_CTX,
        rope_base=rope_base or config.real("rope_theta", 10_000.0),
        tied=is_tied,
        moe=_moe(config),
        mla=_mla(config),
        window=_window(config, architecture),
        recurrent=_recurrent(config, architecture),
    )


def quantised_of(config: Config, separate: Mapping[str, object]) -> Quantised | None:
    """How the checkpoint is packed, by config.json or quantize_config.json (`separate`); None when
    it is not. Raises ModelUnusable for a packing whose bits are not said."""
    said = config.part("quantization_config") or separate
    if not said:
        return None
    by_load = "bitsandbytes" if "load_in_4bit" in said or "load_in_8bit" in said else "gptq"
    method = str(said.get("quant_method", by_load)).lower()[:20]
    bits = said.get("bits", _own_bits(config, method, said))
    if bits is None:
        known = ", ".join(METHODS.values())
        raise ModelUnusable(
            f"{config.where} packs its weights as {method!r} and does not say in how many bits; "
            f"{known} can be read. Give a GGUF file of the model, or the checkpoint it was packed "
            "from."
        )
    if not isinstance(bits, int) or bits not in (2, 3, 4, 5, 6, 8):
        raise ModelUnusable(f"{config.where} says its weights have {str(bits)[:20]} bits.")
    return Quantised(
        METHODS.get(method, method.upper()),
        bits,
        is_symmetric=said.get("sym", True) is not False,
        act_order=said.get("desc_act") is True and said.get("static_groups") is not True,
    )


def _own_bits(config: Config, method: str, said: Mapping[str, object]) -> int | None:
    """The bits of a method that has no choice, or says them in another way."""
    if method == "mxfp4":
        return 4 if config.model_type in IN_MXFP4 else None
    if method == "bitsandbytes":
        return 4 if said.get("load_in_4bit") else 8
    return 8 if method == "fp8" else None


def _moe(config: Config) -> Moe | None:
    n_expert = config.number("num_local_experts", "num_experts", "n_routed_experts")
    if not n_expert:
        return None
    n_ff = config.needed("moe_intermediate_size", "intermediate_size")
    n_shared = config.number("n_shared_experts", "num_shared_experts")
    shared = config.number("shared_expert_intermediate_size") or (n_shared or 0) * n_ff
    return Moe(
        n_expert=n_expert,
        n_used=config.needed("num_experts_per_tok", "num_experts_per_token"),
        n_ff=n_ff,
        n_shared=n_shared or (1 if shared else 0),
        n_ff_shared=shared or None,
        n_dense=config.number("first_k_dense_replace", "num_dense_layers") or 0,
    )


def _mla(config: Config) -> Mla | None:
    rank = config.number("kv_lora_rank")
    if not rank:
        return None
    return Mla(
        kv_rank=rank,
        nope_dim=config.needed("qk_nope_head_dim"),
        rope_dim=config.needed("qk_rope_head_dim"),
        v_dim=config.needed("v_head_dim"),
        q_rank=config.number("q_lora_rank"),
    )


def _window(config: Config, architecture: str) -> SlidingWindow | None:
    """Only where the engine slides at all (header_windows.py)."""
    tokens = config.number("sliding_window")
    slides = architecture in ("gemma2", "gemma3", "gpt-oss", "olmo2")
    return SlidingWindow(tokens) if tokens and slides else None


def _recurrent(config: Config, architecture: str) -> Recurrent | None:
    kinds = config.texts("layer_types")
    if architecture in ("lfm2", "lfm2moe"):
        chosen = tuple(il for il, kind in enumerate(kinds) if kind == "full_attention")
        return Recurrent(attention_layers=chosen, short_cache=config.needed("conv_L_cache"))
    if architecture == "qwen3next":
        return Recurrent(
            attention_every=config.number("full_attention_interval") or 4,
            n_head=config.needed("linear_num_value_heads"),
            head_dim=config.needed("linear_value_head_dim"),
            n_group=config.needed("linear_num_key_heads"),
            kernel=config.needed("linear_conv_kernel_dim"),
        )
    return None
