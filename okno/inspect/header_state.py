"""Which layers keep a recurrent state, and how large it is.

Source: llama.cpp, src/llama-arch.cpp (llm_arch_is_recurrent, llm_arch_is_hybrid), src/models/*.cpp
(load_arch_hparams) and src/llama-hparams.cpp (n_embd_r, n_embd_s).
"""

from __future__ import annotations

from okno.inspect.header_keys import Keys

RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
# Hybrids that mark a recurrent layer by no KV heads ...
MARKED_BY_HEADS = frozenset(
    {
        "jamba", "granitehybrid", "plamo2", "lfm2", "lfm2moe", "kimi-linear", "kimi-k3",
        "glm5-next", "bailingmoe3",
    }
)  # fmt: skip
# ... or that have full attention in every n-th layer only, unless the file lists the layers.
INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
NEMOTRON = frozenset({"nemotron_h", "nemotron_h_moe"})
BOTH = frozenset({"falcon-h1"})  # every layer has attention and a state
UNGROUPED = frozenset({"mamba", "jamba"})  # their ssm.group_count is not read
TOKEN_SHIFTS = 2


def is_hybrid(architecture: str) -> bool:
    return architecture in MARKED_BY_HEADS | INTERVALS.keys() | NEMOTRON | BOTH


def recurrent_layers(keys: Keys) -> list[bool]:
    """For each block whether it keeps a state."""
    kind, n_layer = keys.architecture, keys.n_layer
    n_trunk = n_layer - keys.n_next
    inside = [il < n_trunk for il in range(n_layer)]
    if kind in RECURRENT or kind in BOTH:
        return inside
    if kind in MARKED_BY_HEADS:
        heads = keys.per_layer("attention.head_count_kv", keys.number("attention.head_count"))
        return [trunk and not count for trunk, count in zip(inside, heads, strict=True)]
    if kind in NEMOTRON:
        heads = keys.per_layer("attention.head_count_kv", keys.number("attention.head_count"))
        widths = keys.per_layer("feed_forward_length")
        return [inside[il] and not heads[il] and not widths[il] for il in range(n_layer)]
    if kind in INTERVALS:
        return _by_interval(keys, inside)
    return [False] * n_layer


def state_width(keys: Keys) -> int:
    """Values of state per sequence in a recurrent layer: n_embd_r + n_embd_s."""
    n_embd = keys.number("embedding_length")
    wkv = keys.number("wkv.head_size")
    if wkv:
        return n_embd * (keys.number("token_shift_count", TOKEN_SHIFTS) + wkv)
    if cache := keys.number("shortconv.l_cache"):
        return n_embd * (cache - 1) + _ssm_state(keys)
    n_head = keys.number("attention.head_count")
    if kda := keys.number("kda.head_dim"):
        kernel = keys.number("ssm.conv_kernel") or 4
        return 3 * (kernel - 1) * n_head * kda + kda * kda * n_head
    if keys.architecture == "minimax-01":
        head = keys.number("attention.key_length", n_embd // max(n_head, 1))
        return head * head * n_head
    return _convolution(keys) + _ssm_state(keys)


def _convolution(keys: Keys) -> int:
    kernel = keys.number("ssm.conv_kernel")
    groups = 0 if keys.architecture in UNGROUPED else keys.number("ssm.group_count")
    mixed = keys.number("ssm.inner_size") + 2 * groups * keys.number("ssm.state_size")
    return (kernel - 1) * mixed if kernel else 0


def _ssm_state(keys: Keys) -> int:
    return keys.number("ssm.state_size") * keys.number("ssm.inner_size")


def _by_interval(keys: Keys, inside: list[bool]) -> list[bool]:
    listed = keys.flags("attention.recurrent_layers")
    if listed is not None:
        return [trunk and flag for trunk, flag in zip(inside, listed, strict=True)]
    default = INTERVALS[keys.architecture]
    interval = keys.number("full_attention_interval", default) or default
    return [trunk and (il + 1) % interval != 0 for il, trunk in enumerate(inside)]
