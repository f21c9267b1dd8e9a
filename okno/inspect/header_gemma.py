"""Tensors and header values of gemma3n and gemma4: per-layer embeddings, shared caches, and full
layers with heads of their own.

Source: llama.cpp, src/models/gemma3n.cpp, gemma4.cpp (load_arch_tensors) and conversion/gemma.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from okno.inspect.catalog import Moe
from okno.inspect.gguf import Value
from okno.inspect.header_shape import Sizes

Tensor = tuple[str, tuple[int, ...]]

ARCHITECTURES = frozenset({"gemma3n", "gemma4"})
N_PER_LAYER = 256  # hidden_size_per_layer_input of both families
N_ALTUP, LAUREL_RANK = 4, 64  # llama-hparams.h, n_altup, laurel_rank
POST_NORMS = ("post_attention_norm", "ffn_norm", "post_ffw_norm")


def gemma_tensors(s: Sizes) -> Iterator[Tensor]:
    """Every tensor of a gemma3n or gemma4 model."""
    yield "token_embd.weight", (s.n_embd, s.n_vocab)
    yield "output_norm.weight", (s.n_embd,)
    if s.architecture == "gemma3n":
        yield "altup_proj.weight", (s.n_embd, s.n_embd, N_ALTUP - 1)
        yield "altup_unembd_proj.weight", (s.n_embd, s.n_embd, N_ALTUP - 1)
    else:
        yield "rope_freqs.weight", (_head_dim(s, is_full=True) // 2,)
    if _has_per_layer(s):
        width = N_PER_LAYER * s.n_layer
        yield "per_layer_token_embd.weight", (width, s.n_vocab)
        yield "per_layer_model_proj.weight", (s.n_embd, width)
        yield "per_layer_proj_norm.weight", (N_PER_LAYER,)
    for il in range(s.n_layer):
        yield from ((f"blk.{il}.{name}", dimensions) for name, dimensions in _block(s, il))


def gemma_values(s: Sizes) -> dict[str, Value]:
    """What the header says beside the sizes every model has."""
    window = s.window
    if s.architecture == "gemma3n" or window is None:
        return {}
    full = full_layers(s)
    found: dict[str, Value] = {
        "attention.sliding_window_pattern": tuple(not is_full for is_full in full),
        "attention.shared_kv_layers": window.n_shared,
        "attention.key_length": _head_dim(s, is_full=True),
        "attention.value_length": _head_dim(s, is_full=True),
        "attention.key_length_swa": s.head_dim,
        "attention.value_length_swa": s.head_dim,
        "attention.head_count_kv": tuple(_heads_kv(s, is_full=is_full) for is_full in full),
        "embedding_length_per_layer_input": N_PER_LAYER if _has_per_layer(s) else 0,
        "feed_forward_length": tuple(_ff(s, il) for il in range(s.n_layer)),
        "rope.dimension_count": _head_dim(s, is_full=True),
        "rope.dimension_count_swa": s.head_dim,
    }
    return found


def full_layers(s: Sizes) -> tuple[bool, ...]:
    """Which blocks see everything: the last of each period."""
    n_full = s.window.n_full if s.window else None
    period = max(s.n_layer // n_full, 1) if n_full else s.n_layer + 1
    return tuple((il + 1) % period == 0 for il in range(s.n_layer))


def _block(s: Sizes, il: int) -> Iterator[Tensor]:
    is_full = full_layers(s)[il] and s.architecture == "gemma4"
    head, heads_kv = _head_dim(s, is_full=is_full), _heads_kv(s, is_full=is_full)
    yield "attn_norm.weight", (s.n_embd,)
    yield "attn_q.weight", (s.n_embd, s.n_head * head)
    yield "attn_q_norm.weight", (head,)
    if s.architecture == "gemma3n" or not _is_shared(s, il):
        yield "attn_k.weight", (s.n_embd, heads_kv * head)
        yield "attn_k_norm.weight", (head,)
        if not (is_full and s.window and s.window.k_is_v):
            yield "attn_v.weight", (s.n_embd, heads_kv * head)
    yield "attn_output.weight", (s.n_head * head, s.n_embd)
    for norm in POST_NORMS:
        yield f"{norm}.weight", (s.n_embd,)
    width = _ff(s, il)
    yield "ffn_gate.weight", (s.n_embd, width)
    yield "ffn_up.weight", (s.n_embd, width)
    yield "ffn_down.weight", (width, s.n_embd)
    if _has_per_layer(s):
        yield "inp_gate.weight", (s.n_embd, N_PER_LAYER)
        yield "proj.weight", (N_PER_LAYER, s.n_embd)
        yield "post_norm.weight", (s.n_embd,)
    if s.architecture == "gemma3n":
        yield from _altup(s)
    else:
        yield "layer_output_scale.weight", (1,)
        yield from _experts(s, s.moe) if s.moe else ()


def _altup(s: Sizes) -> Iterator[Tensor]:
    yield "altup_correct_coef.weight", (N_ALTUP, N_ALTUP)
    yield "altup_correct_scale.weight", (s.n_embd,)
    yield "altup_predict_coef.weight", (N_ALTUP, N_ALTUP * N_ALTUP)
    yield "altup_router.weight", (s.n_embd, N_ALTUP)
    yield "altup_router_norm.weight", (s.n_embd,)
    yield "laurel_l.weight", (s.n_embd, LAUREL_RANK)
    yield "laurel_r.weight", (LAUREL_RANK, s.n_embd)
    yield "laurel_post_norm.weight", (s.n_embd,)


def _experts(s: Sizes, moe: Moe) -> Iterator[Tensor]:
    yield "ffn_gate_inp.weight", (s.n_embd, moe.n_expert)
    yield "ffn_gate_inp.scale", (s.n_embd,)
    for norm in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
        yield f"{norm}.weight", (s.n_embd,)
    yield "ffn_gate_up_exps.weight", (s.n_embd, 2 * moe.n_ff, moe.n_expert)
    yield "ffn_down_exps.weight", (moe.n_ff, s.n_embd, moe.n_expert)


def _has_per_layer(s: Sizes) -> bool:
    """gemma3n, and the small models of gemma4 (those that share caches)."""
    return s.architecture == "gemma3n" or bool(s.window and s.window.n_shared)


def _is_shared(s: Sizes, il: int) -> bool:
    return s.window is not None and il >= s.n_layer - s.window.n_shared


def _head_dim(s: Sizes, *, is_full: bool) -> int:
    own = s.window.global_head_dim if s.window else None
    return own if is_full and own else s.head_dim


def _heads_kv(s: Sizes, *, is_full: bool) -> int:
    own = s.window.global_heads_kv if s.window else None
    return own if is_full and own else s.n_head_kv


def _ff(s: Sizes, il: int) -> int:
    """Width of the dense feed-forward part: beside experts it is the shared one; in the smallest
    model (35 blocks) blocks without a cache are twice as wide."""
    if s.moe and s.moe.n_ff_shared:
        return s.moe.n_ff_shared
    doubled = s.architecture == "gemma4" and s.n_layer == 35 and _is_shared(s, il)
    return 2 * s.n_ff if doubled else s.n_ff
