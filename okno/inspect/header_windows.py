"""Which layers see a sliding window only, per architecture, as the pinned llama.cpp decides.

Source: llama.cpp, src/models/*.cpp (load_arch_hparams), src/llama-model.cpp (load_swa_pattern) and
src/llama-hparams.cpp (set_swa_pattern).
"""

from __future__ import annotations

from dataclasses import dataclass

from okno.inspect.header_keys import Keys

CHUNK_TOKENS = 8192  # llama4's chunked attention, whatever the file says
SMALLTHINKER_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Pattern:
    """Of every `period` layers one is dense, the last (or the first: dense_first); 0: none is.
    default_window: in tokens, when the file gives none; 0: then no layer has a window."""

    period: int
    dense_first: bool = False
    default_window: int = 0


PATTERNS: dict[str, Pattern] = {
    "afmoe": Pattern(4),
    "cohere2": Pattern(4),
    "cohere2moe": Pattern(4, dense_first=True),
    "deepseek4": Pattern(0),
    "exaone-moe": Pattern(4, default_window=128),
    "exaone4": Pattern(4, default_window=4096),
    "gemma-embedding": Pattern(6),
    "gemma2": Pattern(2, default_window=4096),
    "gemma3": Pattern(6),
    "gemma3n": Pattern(5),
    "gpt-oss": Pattern(2),
    "laguna": Pattern(4, dense_first=True),
    "llama4": Pattern(4, default_window=CHUNK_TOKENS),
    "mellum": Pattern(4),
    "modern-bert": Pattern(3, dense_first=True),
    "muse-glimmer": Pattern(4),
    "olmo2": Pattern(4),
    "plamo3": Pattern(8),
    "smallthinker": Pattern(4, dense_first=True),
}
# Their files list the layers.
LISTED = frozenset(
    {
        "dflash", "dots3note", "gemma4", "gemma4-assistant", "granite-swa", "maple", "mimo2",
        "spark2-5", "step35",
    }
)  # fmt: skip


def windows(keys: Keys, recurrent: list[bool]) -> list[int | None]:
    """For each block the tokens it sees, None for all. recurrent: which blocks keep a state."""
    tokens = _tokens(keys)
    sliding = _sliding(keys, recurrent) if tokens else []
    n_trunk = keys.n_layer - keys.n_next
    return [
        tokens if tokens and il < n_trunk and sliding[il] else None for il in range(keys.n_layer)
    ]


def _tokens(keys: Keys) -> int:
    """The width of the window; 0: there is none."""
    kind = keys.architecture
    if kind not in PATTERNS and kind not in LISTED and kind != "lfm2":
        return 0
    default = PATTERNS[kind].default_window if kind in PATTERNS else 0
    if kind == "exaone4" and keys.n_layer - keys.n_next != 64:
        return 0  # only the 32 B model slides
    found = keys.number("attention.sliding_window", default)
    if kind == "llama4" and found:
        return CHUNK_TOKENS
    if kind == "smallthinker" and found:
        return SMALLTHINKER_TOKENS
    return found


def _sliding(keys: Keys, recurrent: list[bool]) -> list[bool]:
    key = "attention.sliding_window_pattern"
    kind = keys.architecture
    if kind == "lfm2":
        return [not flag for flag in recurrent]
    listed = keys.flags(key)
    if listed is not None:
        return listed
    if kind in LISTED:
        return [False] * keys.n_layer
    pattern = PATTERNS[kind]
    period = keys.number(key, pattern.period)
    if not period:
        return [True] * keys.n_layer
    dense = 0 if pattern.dense_first else period - 1
    return [il % period != dense for il in range(keys.n_layer)]
