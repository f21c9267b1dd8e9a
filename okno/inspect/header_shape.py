"""From the facts of a model to the sizes its tensors have, and to the values of a GGUF header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from okno.core.errors import ModelUnusable
from okno.inspect.catalog import Mla, Moe, Recurrent, Shape, SlidingWindow
from okno.inspect.gguf import Value

BlockKind = Literal["attention", "state", "none"]
NEMOTRON = frozenset({"nemotron_h", "nemotron_h_moe"})
MAMBA = frozenset({"granitehybrid"}) | NEMOTRON
ENCODERS = frozenset({"bert"})


@dataclass(frozen=True, slots=True)
class Sizes:
    """A shape with everything filled in. attends: which blocks have attention; state, inner,
    n_state_head, n_group, kernel, short_cache: of recurrent blocks."""

    architecture: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    ctx_train: int
    tied: bool
    attends: tuple[bool, ...]
    rope_base: float = 10_000.0
    moe: Moe | None = None
    mla: Mla | None = None
    window: SlidingWindow | None = None
    pattern: str = ""
    state: int = 0
    inner: int = 0
    n_state_head: int = 0
    n_group: int = 1
    kernel: int = 0
    short_cache: int = 0
    attention_every: int = 0

    def block_kind(self, il: int) -> BlockKind:
        if self.pattern:
            kinds: dict[str, BlockKind] = {"M": "state", "*": "attention"}
            return kinds.get(self.pattern[il], "none")
        return "attention" if self.attends[il] else "state"

    def has_ffn(self, il: int) -> bool:
        """nemotron_h has one thing in a block; all others end with a feed-forward part."""
        return not self.pattern or self.pattern[il] in "-E"

    def has_experts(self, il: int) -> bool:
        moe = self.moe
        if moe is None or il < moe.n_dense:
            return False
        return self.pattern[il] == "E" if self.pattern else (il + 1) % moe.every == 0

    @property
    def has_probs_bias(self) -> bool:
        """DeepSeek's first models (without a rank for queries, 27 blocks) have no such bias."""
        return not (self.architecture == "deepseek2" and self.n_layer == 27)


def sizes_of(shape: Shape, name: str) -> Sizes:
    """The sizes of `shape`. Raises ModelUnusable when not enough is known of it."""
    n_layer, n_embd = _known(shape.n_layer, "n_layer", name), _known(shape.n_embd, "n_embd", name)
    n_head = _known(shape.n_head, "n_head", name)
    architecture = shape.architecture or ""
    if not architecture or (architecture == "deepseek2" and shape.mla is None):
        raise _unknown(name, "its architecture or the widths of its latent attention")
    n_ff = _known(shape.n_ff, "n_ff", name)
    recurrent = shape.recurrent or Recurrent()
    moe = _moe(shape.moe)
    is_mixture = moe is not None and not moe.n_dense and moe.every == 1
    return Sizes(
        architecture=architecture,
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=moe.n_ff if moe and is_mixture and architecture not in NEMOTRON else n_ff,
        n_head=n_head,
        n_head_kv=_known(shape.n_head_kv, "n_head_kv", name),
        head_dim=shape.head_dim or n_embd // n_head,
        n_vocab=_known(shape.n_vocab, "n_vocab", name),
        ctx_train=_known(shape.ctx_train, "ctx_train", name),
        tied=bool(shape.tied),
        attends=_attends(recurrent, n_layer, name),
        rope_base=shape.rope_base or 10_000.0,
        moe=moe,
        mla=shape.mla,
        window=shape.window,
        pattern=recurrent.pattern or "",
        state=recurrent.state or recurrent.head_dim or 0,
        inner=(recurrent.n_head or 0) * (recurrent.head_dim or 0),
        n_state_head=recurrent.n_head or 0,
        n_group=recurrent.n_group or 1,
        kernel=recurrent.kernel or 0,
        short_cache=recurrent.short_cache or 0,
        attention_every=recurrent.attention_every or 0,
    )


def values_of(s: Sizes, name: str) -> dict[str, Value]:
    """The values a GGUF of these sizes has (those that say how large it is, and what the engine
    demands beside them)."""
    head: dict[str, Value] = {
        "context_length": s.ctx_train,
        "embedding_length": s.n_embd,
        "block_count": s.n_layer,
        "feed_forward_length": s.n_ff,
        "vocab_size": s.n_vocab,
        "attention.head_count": s.n_head,
        "attention.head_count_kv": s.n_head_kv,
        "rope.freq_base": float(s.rope_base),
    }
    head |= _demanded(s)
    head |= _head_values(s) | _moe_values(s) | _window_values(s) | _state_values(s)
    values: dict[str, Value] = {"general.architecture": s.architecture, "general.name": name}
    if s.architecture in ENCODERS:
        values["tokenizer.ggml.token_type_count"] = 1
    return values | {f"{s.architecture}.{key}": value for key, value in head.items()}


def _demanded(s: Sizes) -> dict[str, Value]:
    """What the engine demands and what costs no memory: any value does."""
    if s.architecture in ENCODERS:
        return {"attention.layer_norm_epsilon": 1e-5, "attention.causal": False, "pooling_type": 2}
    found: dict[str, Value] = {"attention.layer_norm_rms_epsilon": 1e-5}
    if s.architecture.startswith("granite"):
        found |= {"logit_scale": 1.0, "residual_scale": 1.0, "embedding_scale": 1.0}
    if s.architecture in NEMOTRON:
        found["attention.layer_norm_epsilon"] = 1e-5
    return found


def _moe(moe: Moe | None) -> Moe | None:
    """With the width of the shared experts as a number."""
    if moe is None or moe.n_ff_shared or not moe.n_shared:
        return moe
    return Moe(moe.n_expert, moe.n_used, moe.n_ff, moe.n_shared, moe.n_shared * moe.n_ff,
               moe.n_dense, moe.every)  # fmt: skip


def _known(value: int | None, field: str, name: str) -> int:
    if value is None:
        raise _unknown(name, field)
    return value


def _unknown(name: str, what: str) -> ModelUnusable:
    return ModelUnusable(
        f"{name} cannot be planned without its file: {what} was not found in public material. "
        "Give a GGUF file or its address instead."
    )


def _attends(recurrent: Recurrent, n_layer: int, name: str) -> tuple[bool, ...]:
    """Which blocks have attention. Where only their number is known they are spread evenly:
    for memory it does not matter which they are."""
    blocks = range(n_layer)
    if recurrent.pattern:
        if len(recurrent.pattern) != n_layer:
            raise ModelUnusable(f"{name}: its pattern of blocks does not fit {n_layer} blocks.")
        return tuple(letter == "*" for letter in recurrent.pattern)
    if recurrent.attention_layers:
        return tuple(il in recurrent.attention_layers for il in blocks)
    if every := recurrent.attention_every:
        return tuple((il + 1) % every == 0 for il in blocks)
    if count := recurrent.n_attention:
        chosen = {(2 * i + 1) * n_layer // (2 * count) for i in range(count)}
        return tuple(il in chosen for il in blocks)
    if recurrent.is_unknown:
        raise _unknown(name, "which of its blocks keep a state")
    return (True,) * n_layer


def _head_values(s: Sizes) -> dict[str, Value]:
    if s.mla is None:
        return {
            "attention.key_length": s.head_dim,
            "attention.value_length": s.head_dim,
            "rope.dimension_count": s.head_dim,
        }
    ranks: dict[str, Value] = {"attention.q_lora_rank": s.mla.q_rank} if s.mla.q_rank else {}
    return ranks | {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": s.mla.kv_rank,
        "attention.key_length": s.mla.kv_rank + s.mla.rope_dim,
        "attention.value_length": s.mla.kv_rank,
        "attention.key_length_mla": s.mla.nope_dim + s.mla.rope_dim,
        "attention.value_length_mla": s.mla.v_dim,
        "rope.dimension_count": s.mla.rope_dim,
    }


def _moe_values(s: Sizes) -> dict[str, Value]:
    moe = s.moe
    if moe is None:
        return {}
    found: dict[str, Value] = {
        "expert_count": moe.n_expert,
        "expert_used_count": moe.n_used,
        "expert_feed_forward_length": moe.n_ff,
        "leading_dense_block_count": moe.n_dense,
        "interleave_moe_layer_step": moe.every,
        "expert_shared_count": moe.n_shared or 0,
        "expert_shared_feed_forward_length": moe.n_ff_shared or 0,
    }
    if s.architecture in ("glm4moe", "deepseek2", "minimax-m2", "lfm2moe"):
        found["expert_gating_func"] = 2  # sigmoid
    return found


def _window_values(s: Sizes) -> dict[str, Value]:
    if s.window is None or not s.window.tokens:
        return {}
    return {"attention.sliding_window": s.window.tokens}


def _state_values(s: Sizes) -> dict[str, Value]:
    if all(s.attends) and not s.pattern:
        return {}
    heads = tuple(s.n_head_kv if attends else 0 for attends in s.attends)
    if s.short_cache:
        return {"shortconv.l_cache": s.short_cache, "attention.head_count_kv": heads}
    found: dict[str, Value] = {
        "ssm.conv_kernel": s.kernel,
        "ssm.inner_size": s.inner,
        "ssm.state_size": s.state,
        "ssm.time_step_rank": s.n_state_head,
        "ssm.group_count": s.n_group,
    }
    if s.architecture in MAMBA:
        found["attention.head_count_kv"] = heads
    if s.pattern:
        widths = tuple(s.n_ff if s.has_ffn(il) else 0 for il in range(s.n_layer))
        found["feed_forward_length"] = widths
    if s.attention_every:
        found["full_attention_interval"] = s.attention_every
    if s.architecture in ("qwen35", "qwen35moe"):
        found["rope.dimension_sections"] = (11, 11, 10, 0)
        found["rope.dimension_count"] = s.head_dim // 4
    return found
