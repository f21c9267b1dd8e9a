"""The frequency factors of stretched rotary positions, as the engine takes them: as tensors.

Sources: llama.cpp, conversion/llama.py and phi.py (generate_extra_tensors); transformers,
modeling_rope_utils.py.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from okno.inspect.safetensors_rope import Rope

Floats = npt.NDArray[np.float32]


def rope_factors(rope: Rope, name: str) -> Floats:
    """The values of the tensor `name` (one of layout.FACTORS): (n_rot / 2,). Frequencies are
    divided by them."""
    if name == "rope_freqs.weight":
        return llama3_factors(rope)
    return np.array(rope.long if "long" in name else rope.short, np.float32)


def llama3_factors(rope: Rope) -> Floats:
    """1 for waves much shorter than the original context, `factor` for much longer ones, and
    between them a mixture (modeling_rope_utils.py, _compute_llama3_parameters)."""
    factor = rope.number("factor", 8.0)
    low, high = rope.number("low_freq_factor", 1.0), rope.number("high_freq_factor", 4.0)
    frequencies = rope.base ** -(np.arange(0, rope.n_rot, 2, dtype=np.float64) / rope.n_rot)
    turns = rope.original_ctx * frequencies / (2 * math.pi)  # of a wave within that context
    share = np.clip((turns - low) / (high - low), 0, 1) if high > low else (turns > low) * 1.0
    return (1 / ((1 - share) / factor + share)).astype(np.float32)


def longrope_attention(rope: Rope) -> float:
    """What attention scores are scaled by (_compute_longrope_parameters)."""
    said = rope.number("attention_factor", 0.0)
    factor = rope.number("factor", rope.ctx / rope.original_ctx)
    if said or factor <= 1:
        return said or 1.0
    return math.sqrt(1 + math.log(factor) / math.log(rope.original_ctx))


def yarn_attention(rope: Rope) -> float:
    """The factor of _compute_yarn_parameters over the one that the engine applies by itself
    (llama-context.cpp: 1 + 0.1 ln factor)."""
    factor = rope.number("factor", 1.0)
    wanted = rope.number("attention_factor", 0.0)
    scale, all_dim = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    if not wanted and scale and all_dim:
        wanted = _mscale(factor, scale) / _mscale(factor, all_dim)
    return wanted / _mscale(factor, 1.0) if wanted else 1.0


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
