"""Models with a prediction head (MTP) for tests: of random weights, and one whose head is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGUFReader

from okno.bench.shapes import PRESETS, write_gguf

N = 512  # tokens, and values of a hidden state
FIRST = 260  # text tokens of one piece each, above bytes and control tokens
SHAPE = replace(
    PRESETS["glm-mtp-tiny"], name="glm-mtp-right", n_embd=N, n_vocab=N, n_head=4, n_ff=32
)


def successors(seed: int = 5) -> list[int]:
    """The token that follows each token: one cycle through all from FIRST on."""
    order = np.random.default_rng(seed).permutation(np.arange(FIRST, N))
    after = list(range(N))
    for token, following in zip(order, np.roll(order, -1), strict=True):
        after[int(token)] = int(following)
    return after


def write_right_head(path: Path, *, sharpness: float = 1.0) -> Path:
    """A model that says the successor of the last token (sharpness: how surely), whatever came
    before. Its head reads the hidden state alone: of the token before the last one it makes that of
    the last one, so it is right as long as the text follows `successors` and each row of it has got
    the state that belongs to it."""
    write_gguf(SHAPE, path, "F32")
    after = successors()
    one_hot = np.eye(N, dtype=np.float32)
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path, "r+").tensors}
    for name, data in tensors.items():
        if ".attn_output." in name or ".ffn_down" in name:
            data[:] = 0  # blocks add nothing
    tensors["token_embd.weight"][:] = one_hot
    tensors["output.weight"][after] = sharpness * one_hot
    follow = np.zeros((N, N), dtype=np.float32)
    follow[after] = one_hot
    eh_proj = tensors[f"blk.{SHAPE.n_layer}.nextn.eh_proj.weight"]
    eh_proj[:, :N], eh_proj[:, N:] = 0, follow
    for data in tensors.values():
        data.flush() if hasattr(data, "flush") else None
    return path
