"""What each layer of a model keeps per token and per sequence, from the values of its header.

Source: llama.cpp, src/llama-model.cpp (load_hparams, create_memory), src/llama-hparams.cpp and
src/llama-kv-cache.cpp.
"""

from __future__ import annotations

from okno.core.header import Layer
from okno.inspect.header_keys import Keys
from okno.inspect.header_state import BOTH, NEMOTRON, RECURRENT, recurrent_layers, state_width
from okno.inspect.header_windows import windows

# create_memory makes no cache for these (encoders and diffusion models).
WITHOUT_CACHE = frozenset(
    {
        "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert",
        "eurobert", "wavtokenizer-dec", "modern-bert", "gemma-embedding", "dream", "llada",
        "llada-moe", "rnd1",
    }
)  # fmt: skip
# Layers from here on use the cache of an earlier one (gemma3n.cpp).
GEMMA3N_OWN_CACHES = 20
# Sparse attention keeps the keys of its indexer too, in a cache as long as that of the layer.
INDEXED = frozenset({"deepseek32", "glm-dsa", "glm5-next"})


def layers_of(keys: Keys) -> tuple[Layer, ...]:
    """One Layer for each block the model runs through. Raises ModelUnusable for odd values."""
    recurrent = recurrent_layers(keys)
    seen = windows(keys, recurrent)
    state = state_width(keys) if any(recurrent) else 0
    heads = _Heads(keys)
    attends = _attending(keys, recurrent)
    found = tuple(
        heads.layer(il, seen[il], attends=attends[il], state=state if recurrent[il] else 0)
        for il in range(keys.n_layer)
    )
    # nanbeige runs through its blocks several times, each time with a cache of its own.
    return found * min(max(keys.number("num_loops", 1), 1), 64)


def _attending(keys: Keys, recurrent: list[bool]) -> list[bool]:
    """For each block whether it has attention at all."""
    kind, n_layer = keys.architecture, keys.n_layer
    n_trunk = n_layer - keys.n_next
    if kind in RECURRENT:
        return [False] * n_layer
    if kind in NEMOTRON:
        widths = keys.per_layer("feed_forward_length")
        return [il < n_trunk and not recurrent[il] and not widths[il] for il in range(n_layer)]
    return [il < n_trunk and (kind in BOTH or not recurrent[il]) for il in range(n_layer)]


class _Heads:
    """Heads of the layers and what is kept of them."""

    def __init__(self, keys: Keys) -> None:
        self._n_head = keys.per_layer("attention.head_count")
        self._n_kv = (
            keys.per_layer("attention.head_count_kv")
            if keys.has("attention.head_count_kv")
            else self._n_head
        )
        default = keys.number("embedding_length") // self._n_head[0] if self._n_head[0] else 0
        self._key = keys.number("attention.key_length", default) if default else 0
        self._value = keys.number("attention.value_length", default) if default else 0
        self._key_swa = keys.number("attention.key_length_swa", self._key)
        self._value_swa = keys.number("attention.value_length_swa", self._value)
        self._is_mla = bool(
            keys.number("attention.key_length_mla") and keys.number("attention.value_length_mla")
        )
        self._indexer = keys.number("attention.indexer.key_length")
        self._indexed = _indexed(keys)
        self._n_caches = _own_caches(keys)

    def layer(self, il: int, window: int | None, *, attends: bool, state: int) -> Layer:
        if not attends:
            return Layer(state_width=state)
        key = self._key if window is None else self._key_swa
        value = self._value if window is None else self._value_swa
        own = il < self._n_caches
        k_width = key * self._n_kv[il] + (self._indexer if self._indexed[il] else 0)
        v_width = 0 if self._is_mla else value * self._n_kv[il]
        return Layer(
            n_head=self._n_head[il],
            head_dim=key,
            k_width=k_width if own else 0,
            v_width=v_width if own else 0,
            window=window,
            state_width=state,
        )


def _own_caches(keys: Keys) -> int:
    """The first blocks with a cache of their own; the others read one of these."""
    if keys.architecture in WITHOUT_CACHE:
        return 0
    if keys.architecture == "gemma3n":
        return GEMMA3N_OWN_CACHES
    if keys.architecture == "gemma4":
        return max(keys.n_layer - keys.number("attention.shared_kv_layers"), 0)
    return keys.n_layer


def _indexed(keys: Keys) -> list[bool]:
    """Which blocks have an indexer of their own."""
    if keys.architecture not in INDEXED:
        return [False] * keys.n_layer
    listed = keys.flags("attention.indexer.types")
    return listed if listed is not None else [True] * keys.n_layer
