"""Which tensors a model of a shape has, as llama.cpp's `src/models/*.cpp` demands them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Fill = Literal["normal", "ones", "zeros", "decay", "time_step"]
Architecture = Literal[
    "llama", "qwen3", "gemma3", "mamba2", "bert", "phi3", "qwen3moe", "gpt-oss", "deepseek2",
    "granitehybrid", "lfm2", "glm4moe",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model. Widths in values, ctx_train in tokens.

    tied: the output layer is the token embedding. sliding_window: tokens that all but every sixth
    layer see (gemma3), or every second (gpt-oss). state_size, conv_kernel: recurrent state and
    convolution (mamba2, granitehybrid; lfm2 has the convolution alone). attention_layers: in a
    hybrid, the layers with attention; all others are recurrent. n_ff_expert: width of one expert;
    dense_layers: leading layers without experts; shared_experts: experts every token uses.
    q_lora, kv_lora, rope_dim, v_head_dim: latent attention (deepseek2). mtp_layers: blocks after
    the n_layer of the model that predict the token after the next (glm4moe,
    deepseek2).
    """

    name: str
    architecture: Architecture
    n_embd: int
    n_layer: int
    n_vocab: int
    ctx_train: int
    n_ff: int = 0
    n_head: int = 0
    n_head_kv: int = 0
    head_dim: int = 0
    rope_base: float = 10_000.0
    tied: bool = True
    sliding_window: int = 0
    state_size: int = 0
    conv_kernel: int = 4
    pooling: Literal["none", "mean", "cls"] = "none"
    attention_layers: tuple[int, ...] = ()
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_expert: int = 0
    dense_layers: int = 0
    shared_experts: int = 0
    q_lora: int = 0
    kv_lora: int = 0
    rope_dim: int = 0
    v_head_dim: int = 0
    mtp_layers: int = 0

    @property
    def n_inner(self) -> int:
        """Inner width of a recurrent layer."""
        return 2 * self.n_embd

    def n_params(self) -> int:
        """Number of weights."""
        return sum(t.n_values for t in tensors(self))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to write. `rows` x `columns` (columns = input width; rows 0: a vector), `slices`
    times (experts, heads; 0: no such dimension)."""

    name: str
    rows: int
    columns: int
    fill: Fill = "normal"
    quantised: bool = True
    slices: int = 0

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Outermost first, as numpy has them."""
        return tuple(n for n in (self.slices, self.rows, self.columns) if n)

    @property
    def n_rows(self) -> int:
        """Rows in all slices."""
        return max(self.slices, 1) * max(self.rows, 1)

    @property
    def n_values(self) -> int:
        return self.n_rows * self.columns


def tensors(shape: Shape) -> list[Tensor]:
    """Every tensor of `shape`, in file order."""
    return list(_BY_ARCHITECTURE[shape.architecture](shape))


def _vector(name: str, width: int, fill: Fill = "ones") -> Tensor:
    return Tensor(name, 0, width, fill, quantised=False)


def _head(s: Shape) -> Iterator[Tensor]:
    """Input and output of a decoder."""
    yield Tensor("token_embd.weight", s.n_vocab, s.n_embd)
    yield _vector("output_norm.weight", s.n_embd)
    if not s.tied:
        yield Tensor("output.weight", s.n_vocab, s.n_embd)


def _attention(s: Shape, block: str) -> Iterator[Tensor]:
    yield Tensor(f"{block}.attn_q.weight", s.n_head * s.head_dim, s.n_embd)
    yield Tensor(f"{block}.attn_k.weight", s.n_head_kv * s.head_dim, s.n_embd)
    yield Tensor(f"{block}.attn_v.weight", s.n_head_kv * s.head_dim, s.n_embd)
    yield Tensor(f"{block}.attn_output.weight", s.n_embd, s.n_head * s.head_dim)


def _head_norms(s: Shape, block: str) -> Iterator[Tensor]:
    yield _vector(f"{block}.attn_q_norm.weight", s.head_dim)
    yield _vector(f"{block}.attn_k_norm.weight", s.head_dim)


def _feed_forward(s: Shape, block: str) -> Iterator[Tensor]:
    yield Tensor(f"{block}.ffn_gate.weight", s.n_ff, s.n_embd)
    yield Tensor(f"{block}.ffn_up.weight", s.n_ff, s.n_embd)
    yield Tensor(f"{block}.ffn_down.weight", s.n_embd, s.n_ff)


def _llama(s: Shape) -> Iterator[Tensor]:
    yield from _head(s)
    for block in _blocks(s):
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        yield from _attention(s, block)
        yield _vector(f"{block}.ffn_norm.weight", s.n_embd)
        yield from _feed_forward(s, block)


def _qwen3(s: Shape) -> Iterator[Tensor]:
    yield from _llama(s)
    for block in _blocks(s):
        yield from _head_norms(s, block)


def _gemma3(s: Shape) -> Iterator[Tensor]:
    yield from _qwen3(s)
    for block in _blocks(s):
        yield _vector(f"{block}.post_attention_norm.weight", s.n_embd)
        yield _vector(f"{block}.post_ffw_norm.weight", s.n_embd)


def _phi3(s: Shape) -> Iterator[Tensor]:
    """Query, key and value in one tensor, as are gate and up."""
    yield from _head(s)
    for block in _blocks(s):
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        fused = (s.n_head + 2 * s.n_head_kv) * s.head_dim
        yield Tensor(f"{block}.attn_qkv.weight", fused, s.n_embd)
        yield Tensor(f"{block}.attn_output.weight", s.n_embd, s.n_head * s.head_dim)
        yield _vector(f"{block}.ffn_norm.weight", s.n_embd)
        yield Tensor(f"{block}.ffn_up.weight", 2 * s.n_ff, s.n_embd)
        yield Tensor(f"{block}.ffn_down.weight", s.n_embd, s.n_ff)


def _experts(s: Shape, block: str) -> Iterator[Tensor]:
    """The router and the experts' three projections."""
    n, wide = s.n_expert, s.n_ff_expert
    yield Tensor(f"{block}.ffn_gate_inp.weight", n, s.n_embd, quantised=False)
    yield Tensor(f"{block}.ffn_gate_exps.weight", wide, s.n_embd, slices=n)
    yield Tensor(f"{block}.ffn_up_exps.weight", wide, s.n_embd, slices=n)
    yield Tensor(f"{block}.ffn_down_exps.weight", s.n_embd, wide, slices=n)


def _qwen3moe(s: Shape) -> Iterator[Tensor]:
    yield from _head(s)
    for block in _blocks(s):
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        yield from _attention(s, block)
        yield from _head_norms(s, block)
        yield _vector(f"{block}.ffn_norm.weight", s.n_embd)
        yield from _experts(s, block)


def _gpt_oss(s: Shape) -> Iterator[Tensor]:
    """Biases everywhere, a sink per head."""
    yield from _head(s)
    for block in _blocks(s):
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        for tensor in (*_attention(s, block), *_experts(s, block)):
            yield tensor
            bias = tensor.name.replace("weight", "bias")
            yield Tensor(bias, tensor.slices, tensor.rows, "zeros", quantised=False)
        yield _vector(f"{block}.attn_sinks.weight", s.n_head, "zeros")
        yield _vector(f"{block}.post_attention_norm.weight", s.n_embd)


def _deepseek2(s: Shape) -> Iterator[Tensor]:
    yield from _head(s)
    for i in range(s.n_layer + s.mtp_layers):
        block = f"blk.{i}"
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        yield from _latent_attention(s, block)
        yield _vector(f"{block}.ffn_norm.weight", s.n_embd)
        if i < s.dense_layers:
            yield from _feed_forward(s, block)
        else:
            yield from _experts(s, block)
            yield from _shared_expert(s, block)
        if i >= s.n_layer:
            yield from _prediction(s, block)


def _shared_expert(s: Shape, block: str) -> Iterator[Tensor]:
    wide = s.n_ff_expert * s.shared_experts
    yield Tensor(f"{block}.ffn_gate_shexp.weight", wide, s.n_embd)
    yield Tensor(f"{block}.ffn_up_shexp.weight", wide, s.n_embd)
    yield Tensor(f"{block}.ffn_down_shexp.weight", s.n_embd, wide)


def _glm4moe(s: Shape) -> Iterator[Tensor]:
    """Prediction layers are blocks with experts after the others, and the projection of token and
    hidden state before them."""
    yield from _head(s)
    for i in range(s.n_layer + s.mtp_layers):
        block = f"blk.{i}"
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        yield from _attention(s, block)
        yield _vector(f"{block}.post_attention_norm.weight", s.n_embd)
        if i < s.dense_layers:
            yield from _feed_forward(s, block)
        else:
            yield from _experts(s, block)
            yield _vector(f"{block}.exp_probs_b.bias", s.n_expert, "zeros")
            yield from _shared_expert(s, block)
        if i >= s.n_layer:
            yield from _prediction(s, block)


def _prediction(s: Shape, block: str) -> Iterator[Tensor]:
    yield Tensor(f"{block}.nextn.eh_proj.weight", s.n_embd, 2 * s.n_embd)
    for norm in ("enorm", "hnorm", "shared_head_norm"):
        yield _vector(f"{block}.nextn.{norm}.weight", s.n_embd)


def _latent_attention(s: Shape, block: str) -> Iterator[Tensor]:
    nope = s.head_dim - s.rope_dim
    if s.q_lora:
        yield Tensor(f"{block}.attn_q_a.weight", s.q_lora, s.n_embd)
        yield _vector(f"{block}.attn_q_a_norm.weight", s.q_lora)
        yield Tensor(f"{block}.attn_q_b.weight", s.n_head * s.head_dim, s.q_lora)
    else:
        yield Tensor(f"{block}.attn_q.weight", s.n_head * s.head_dim, s.n_embd)
    yield Tensor(f"{block}.attn_kv_a_mqa.weight", s.kv_lora + s.rope_dim, s.n_embd)
    yield _vector(f"{block}.attn_kv_a_norm.weight", s.kv_lora)
    yield Tensor(f"{block}.attn_k_b.weight", s.kv_lora, nope, slices=s.n_head)
    yield Tensor(f"{block}.attn_v_b.weight", s.v_head_dim, s.kv_lora, slices=s.n_head)
    yield Tensor(f"{block}.attn_output.weight", s.n_embd, s.n_head * s.v_head_dim)


def _mamba2(s: Shape) -> Iterator[Tensor]:
    yield from _head(s)
    for block in _blocks(s):
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        yield from _state_space(s, block)


def _state_space(s: Shape, block: str) -> Iterator[Tensor]:
    """One head per 32 inner values, one group."""
    heads = mamba_heads(s)
    mixed = s.n_inner + 2 * s.state_size
    yield Tensor(f"{block}.ssm_in.weight", s.n_inner + mixed + heads, s.n_embd)
    yield Tensor(f"{block}.ssm_conv1d.weight", mixed, s.conv_kernel, quantised=False)
    yield _vector(f"{block}.ssm_conv1d.bias", mixed, "zeros")
    yield _vector(f"{block}.ssm_dt.bias", heads, "time_step")
    yield Tensor(f"{block}.ssm_a", heads, 1, "decay", quantised=False)
    yield Tensor(f"{block}.ssm_d", heads, 1, "ones", quantised=False)
    yield Tensor(f"{block}.ssm_norm.weight", 1, s.n_inner, "ones", quantised=False)
    yield Tensor(f"{block}.ssm_out.weight", s.n_embd, s.n_inner)


def _granite_hybrid(s: Shape) -> Iterator[Tensor]:
    yield from _head(s)
    for i, block in enumerate(_blocks(s)):
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        yield from _attention(s, block) if i in s.attention_layers else _state_space(s, block)
        yield _vector(f"{block}.ffn_norm.weight", s.n_embd)
        yield from _feed_forward(s, block)


def _lfm2(s: Shape) -> Iterator[Tensor]:
    """Short convolutions between layers of attention."""
    yield Tensor("token_embd.weight", s.n_vocab, s.n_embd)
    yield _vector("token_embd_norm.weight", s.n_embd)
    for i, block in enumerate(_blocks(s)):
        yield _vector(f"{block}.attn_norm.weight", s.n_embd)
        if i in s.attention_layers:
            yield from _attention(s, block)
            yield from _head_norms(s, block)
        else:
            conv = f"{block}.shortconv"
            yield Tensor(f"{conv}.conv.weight", s.n_embd, s.conv_kernel, quantised=False)
            yield Tensor(f"{conv}.in_proj.weight", 3 * s.n_embd, s.n_embd)
            yield Tensor(f"{conv}.out_proj.weight", s.n_embd, s.n_embd)
        yield _vector(f"{block}.ffn_norm.weight", s.n_embd)
        yield from _feed_forward(s, block)


def mamba_heads(s: Shape) -> int:
    """Heads (`ssm.time_step_rank`) of a mamba2 shape."""
    return s.n_inner // 32


def _bert(s: Shape) -> Iterator[Tensor]:
    yield Tensor("token_embd.weight", s.n_vocab, s.n_embd)
    yield Tensor("token_types.weight", 2, s.n_embd, quantised=False)
    yield Tensor("position_embd.weight", s.ctx_train, s.n_embd, quantised=False)
    yield from _layer_norm("token_embd_norm", s.n_embd)
    for block in _blocks(s):
        for tensor in (*_attention(s, block), *_bert_feed_forward(s, block)):
            yield tensor
            yield _vector(tensor.name.replace("weight", "bias"), tensor.rows, "zeros")
        yield from _layer_norm(f"{block}.attn_output_norm", s.n_embd)
        yield from _layer_norm(f"{block}.layer_output_norm", s.n_embd)


def _bert_feed_forward(s: Shape, block: str) -> Iterator[Tensor]:
    yield Tensor(f"{block}.ffn_up.weight", s.n_ff, s.n_embd)
    yield Tensor(f"{block}.ffn_down.weight", s.n_embd, s.n_ff)


def _layer_norm(name: str, width: int) -> Iterator[Tensor]:
    yield _vector(f"{name}.weight", width)
    yield _vector(f"{name}.bias", width, "zeros")


def _blocks(s: Shape) -> Iterator[str]:
    return (f"blk.{i}" for i in range(s.n_layer))


_BY_ARCHITECTURE: dict[str, Callable[[Shape], Iterator[Tensor]]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "mamba2": _mamba2,
    "bert": _bert,
    "phi3": _phi3,
    "qwen3moe": _qwen3moe,
    "gpt-oss": _gpt_oss,
    "deepseek2": _deepseek2,
    "granitehybrid": _granite_hybrid,
    "lfm2": _lfm2,
    "glm4moe": _glm4moe,
}
