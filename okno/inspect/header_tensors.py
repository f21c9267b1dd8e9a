"""The tensors that a model of a known shape has, as llama.cpp's src/models/*.cpp demands them.

Dimensions are in ggml order: the input width first. Prediction heads beside the model (MTP), image
projectors and rope factors are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from okno.inspect.catalog import Mla, Moe
from okno.inspect.header_shape import Sizes

Tensor = tuple[str, tuple[int, ...]]

# Norms of a block beside attn_norm and ffn_norm, and which of the two it lacks.
POST_NORMS = {
    "gemma2": ("post_attention_norm", "post_ffw_norm"),
    "gemma3": ("post_attention_norm", "post_ffw_norm"),
    "gemma3n": ("post_attention_norm", "post_ffw_norm"),
    "gemma4": ("post_attention_norm", "post_ffw_norm"),
    "glm4": ("post_attention_norm", "post_ffw_norm"),
    "olmo2": ("post_attention_norm", "post_ffw_norm"),
    "glm4moe": ("post_attention_norm",),
    "gpt-oss": ("post_attention_norm",),
    "qwen3next": ("post_attention_norm",),
    "qwen35": ("post_attention_norm",),
    "qwen35moe": ("post_attention_norm",),
    "seed_oss": ("post_attention_norm",),
}
WITHOUT_FFN_NORM = frozenset(
    {
        "glm4moe", "gpt-oss", "nemotron_h", "nemotron_h_moe", "olmo2", "qwen3next", "qwen35",
        "qwen35moe", "seed_oss",
    }
)  # fmt: skip
HEAD_NORMS = frozenset(
    {
        "gemma3", "gemma3n", "gemma4", "lfm2", "lfm2moe", "qwen3", "qwen3moe", "qwen3next",
        "qwen35", "qwen35moe",
    }
)  # fmt: skip
WIDE_HEAD_NORMS = frozenset({"minimax-m2", "olmo2"})
QKV_BIAS = frozenset({"glm4moe", "gpt-oss", "qwen2", "qwen2moe", "seed_oss"})
FUSED_QKV = frozenset({"phi3"})
FUSED_UP = frozenset({"glm4", "phi3"})
GATED_ATTENTION = frozenset({"qwen3next", "qwen35", "qwen35moe"})
PROBS_BIAS = frozenset({"deepseek2", "glm4moe", "lfm2moe", "minimax-m2", "nemotron_h_moe"})
SHARED_GATE = frozenset({"qwen2moe", "qwen3next", "qwen35moe"})
DENSE = frozenset(
    {
        "deepseek", "deepseek2", "gemma2", "gemma3", "glm4", "glm4moe", "gpt-oss", "granite",
        "llama", "llama4", "minimax-m2", "mistral3", "olmo2", "phi3", "qwen2", "qwen2moe",
        "qwen3", "qwen3moe", "seed_oss", "smollm3",
    }
)  # fmt: skip
MAMBA = frozenset({"granitehybrid", "nemotron_h", "nemotron_h_moe"})
SHORT_CONVOLUTION = frozenset({"lfm2", "lfm2moe"})
DELTA_NET = frozenset({"qwen3next", "qwen35", "qwen35moe"})
KNOWN = DENSE | MAMBA | SHORT_CONVOLUTION | DELTA_NET | {"bert"}


def tensors_of(s: Sizes) -> list[Tensor]:
    """Every tensor of a model whose architecture is one of KNOWN, in the order of its blocks."""
    if s.architecture == "bert":
        return list(_bert(s))
    found: list[Tensor] = [("token_embd.weight", (s.n_embd, s.n_vocab))]
    norm = "token_embd_norm" if s.architecture in SHORT_CONVOLUTION else "output_norm"
    found.append((f"{norm}.weight", (s.n_embd,)))
    if not s.tied:
        found.append(("output.weight", (s.n_embd, s.n_vocab)))
    for il in range(s.n_layer):
        found += [(f"blk.{il}.{name}", dimensions) for name, dimensions in _block(s, il)]
    return found


def _block(s: Sizes, il: int) -> Iterator[Tensor]:
    if s.architecture != "olmo2":
        yield "attn_norm.weight", (s.n_embd,)
    if s.architecture not in WITHOUT_FFN_NORM:
        yield "ffn_norm.weight", (s.n_embd,)
    for norm in POST_NORMS.get(s.architecture, ()):
        yield f"{norm}.weight", (s.n_embd,)
    kind = s.block_kind(il)
    if kind == "state":
        yield from _state(s)
    elif kind == "attention":
        yield from _latent(s, s.mla) if s.mla else _attention(s)
    if s.has_ffn(il):
        yield from _feed_forward(s, il)


def _attention(s: Sizes) -> Iterator[Tensor]:
    q, kv = s.n_head * s.head_dim, s.n_head_kv * s.head_dim
    if s.architecture in FUSED_QKV:
        yield "attn_qkv.weight", (s.n_embd, q + 2 * kv)
    else:
        yield "attn_q.weight", (s.n_embd, 2 * q if s.architecture in GATED_ATTENTION else q)
        yield "attn_k.weight", (s.n_embd, kv)
        yield "attn_v.weight", (s.n_embd, kv)
    yield "attn_output.weight", (q, s.n_embd)
    if s.architecture in QKV_BIAS:
        yield from (("attn_q.bias", (q,)), ("attn_k.bias", (kv,)), ("attn_v.bias", (kv,)))
    if s.architecture in HEAD_NORMS:
        yield from (("attn_q_norm.weight", (s.head_dim,)), ("attn_k_norm.weight", (s.head_dim,)))
    if s.architecture in WIDE_HEAD_NORMS:
        yield from (("attn_q_norm.weight", (q,)), ("attn_k_norm.weight", (kv,)))
    if s.architecture == "gpt-oss":
        yield from (("attn_output.bias", (s.n_embd,)), ("attn_sinks.weight", (s.n_head,)))


def _latent(s: Sizes, mla: Mla) -> Iterator[Tensor]:
    """deepseek2.cpp"""
    q = s.n_head * (mla.nope_dim + mla.rope_dim)
    if mla.q_rank:
        yield "attn_q_a.weight", (s.n_embd, mla.q_rank)
        yield "attn_q_a_norm.weight", (mla.q_rank,)
        yield "attn_q_b.weight", (mla.q_rank, q)
    else:
        yield "attn_q.weight", (s.n_embd, q)
    yield "attn_kv_a_mqa.weight", (s.n_embd, mla.kv_rank + mla.rope_dim)
    yield "attn_kv_a_norm.weight", (mla.kv_rank,)
    yield "attn_k_b.weight", (mla.nope_dim, mla.kv_rank, s.n_head)
    yield "attn_v_b.weight", (mla.kv_rank, mla.v_dim, s.n_head)
    yield "attn_output.weight", (s.n_head * mla.v_dim, s.n_embd)


def _feed_forward(s: Sizes, il: int) -> Iterator[Tensor]:
    if s.moe and s.has_experts(il):
        yield from _experts(s, s.moe)
        return
    fused = s.architecture in FUSED_UP
    if not fused and s.architecture not in ("nemotron_h", "nemotron_h_moe"):
        yield "ffn_gate.weight", (s.n_embd, s.n_ff)
    yield "ffn_up.weight", (s.n_embd, 2 * s.n_ff if fused else s.n_ff)
    yield "ffn_down.weight", (s.n_ff, s.n_embd)


def _experts(s: Sizes, moe: Moe) -> Iterator[Tensor]:
    gated = ("gate", "up") if s.architecture != "nemotron_h_moe" else ("up",)
    yield "ffn_gate_inp.weight", (s.n_embd, moe.n_expert)
    for part in gated:
        yield f"ffn_{part}_exps.weight", (s.n_embd, moe.n_ff, moe.n_expert)
    yield "ffn_down_exps.weight", (moe.n_ff, s.n_embd, moe.n_expert)
    if s.architecture in PROBS_BIAS and s.has_probs_bias:
        yield "exp_probs_b.bias", (moe.n_expert,)
    if s.architecture == "gpt-oss":
        yield "ffn_gate_inp.bias", (moe.n_expert,)
        for part, width in (("gate", moe.n_ff), ("up", moe.n_ff), ("down", s.n_embd)):
            yield f"ffn_{part}_exps.bias", (width, moe.n_expert)
    if not moe.n_ff_shared:
        return
    for part in gated:
        yield f"ffn_{part}_shexp.weight", (s.n_embd, moe.n_ff_shared)
    yield "ffn_down_shexp.weight", (moe.n_ff_shared, s.n_embd)
    if s.architecture in SHARED_GATE:
        yield "ffn_gate_inp_shexp.weight", (s.n_embd,)


def _state(s: Sizes) -> Iterator[Tensor]:
    if s.architecture in SHORT_CONVOLUTION:
        yield "shortconv.conv.weight", (s.short_cache, s.n_embd)
        yield "shortconv.in_proj.weight", (s.n_embd, 3 * s.n_embd)
        yield "shortconv.out_proj.weight", (s.n_embd, s.n_embd)
    elif s.architecture in DELTA_NET:
        yield from _delta_net(s)
    else:
        yield from _mamba2(s)


def _delta_net(s: Sizes) -> Iterator[Tensor]:
    """qwen3next.cpp, qwen35.cpp"""
    key, value = s.state * s.n_group, s.state * s.n_state_head
    yield "attn_qkv.weight", (s.n_embd, 2 * key + value)
    yield "attn_gate.weight", (s.n_embd, value)
    yield "ssm_conv1d.weight", (s.kernel, 2 * key + value)
    yield "ssm_dt.bias", (s.n_state_head,)
    yield "ssm_a", (s.n_state_head,)
    if s.architecture == "qwen3next":
        yield "ssm_ba.weight", (s.n_embd, 2 * s.n_state_head)
    else:
        yield "ssm_beta.weight", (s.n_embd, s.n_state_head)
        yield "ssm_alpha.weight", (s.n_embd, s.n_state_head)
    yield "ssm_norm.weight", (s.state,)
    yield "ssm_out.weight", (value, s.n_embd)


def _mamba2(s: Sizes) -> Iterator[Tensor]:
    """granite-hybrid.cpp, nemotron-h.cpp"""
    inner, heads = s.inner, s.n_state_head
    mixed = inner + 2 * s.n_group * s.state
    yield "ssm_in.weight", (s.n_embd, inner + mixed + heads)
    yield "ssm_conv1d.weight", (s.kernel, mixed)
    yield "ssm_conv1d.bias", (mixed,)
    yield "ssm_dt.bias", (heads,)
    yield "ssm_a", (1, heads)
    yield "ssm_d", (1, heads)
    yield "ssm_norm.weight", (inner // s.n_group, s.n_group)
    yield "ssm_out.weight", (inner, s.n_embd)


def _bert(s: Sizes) -> Iterator[Tensor]:
    yield "token_embd.weight", (s.n_embd, s.n_vocab)
    yield "token_types.weight", (s.n_embd,)
    yield "position_embd.weight", (s.n_embd, s.ctx_train)
    yield from _layer_norm("token_embd_norm", s.n_embd)
    for il in range(s.n_layer):
        for part in ("q", "k", "v", "output"):
            yield f"blk.{il}.attn_{part}.weight", (s.n_embd, s.n_embd)
            yield f"blk.{il}.attn_{part}.bias", (s.n_embd,)
        yield f"blk.{il}.ffn_up.weight", (s.n_embd, s.n_ff)
        yield f"blk.{il}.ffn_up.bias", (s.n_ff,)
        yield f"blk.{il}.ffn_down.weight", (s.n_ff, s.n_embd)
        yield f"blk.{il}.ffn_down.bias", (s.n_embd,)
        yield from _layer_norm(f"blk.{il}.attn_output_norm", s.n_embd)
        yield from _layer_norm(f"blk.{il}.layer_output_norm", s.n_embd)


def _layer_norm(name: str, width: int) -> Iterator[Tensor]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
