"""A small Llama in PyTorch: RMSNorm, interleaved RoPE, SwiGLU, tied embeddings, no biases."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of the model; `context` is in tokens."""

    vocab: int = 2560
    layers: int = 5
    width: int = 256
    heads: int = 4
    head_dim: int = 64
    ffn: int = 640
    context: int = 1024
    rope_base: float = 500000.0
    eps: float = 1e-5


def rope_tables(cfg: Config) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and frequency, [context, head_dim / 2] each."""
    freq = cfg.rope_base ** (-torch.arange(0, cfg.head_dim, 2).float() / cfg.head_dim)
    angle = torch.outer(torch.arange(cfg.context).float(), freq)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of the last axis, as llama.cpp does for `llama`."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


class Norm(nn.Module):
    """RMSNorm with a learnt scale."""

    def __init__(self, width: int, eps: float) -> None:
        """A norm over the last axis of `width` numbers."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Block(nn.Module):
    """One layer: attention, then the feed-forward part."""

    def __init__(self, cfg: Config) -> None:
        """A layer of the sizes in `cfg`."""
        super().__init__()
        inner = cfg.heads * cfg.head_dim
        self.cfg = cfg
        self.attn_norm = Norm(cfg.width, cfg.eps)
        self.ffn_norm = Norm(cfg.width, cfg.eps)
        self.q = nn.Linear(cfg.width, inner, bias=False)
        self.k = nn.Linear(cfg.width, inner, bias=False)
        self.v = nn.Linear(cfg.width, inner, bias=False)
        self.o = nn.Linear(inner, cfg.width, bias=False)
        self.gate = nn.Linear(cfg.width, cfg.ffn, bias=False)
        self.up = nn.Linear(cfg.width, cfg.ffn, bias=False)
        self.down = nn.Linear(cfg.ffn, cfg.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, tokens, width] -> the same shape."""
        batch, length, _ = x.shape
        shape = (batch, length, self.cfg.heads, self.cfg.head_dim)
        h = self.attn_norm(x)
        q = rotate(self.q(h).view(shape).transpose(1, 2), cos, sin)
        k = rotate(self.k(h).view(shape).transpose(1, 2), cos, sin)
        v = self.v(h).view(shape).transpose(1, 2)
        mixed = nnf.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(batch, length, -1))
        h = self.ffn_norm(x)
        return x + self.down(nnf.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """The whole model; the output matrix is the embedding."""

    def __init__(self, cfg: Config) -> None:
        """Random weights; call `init_weights` for the starting point of the training."""
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab, cfg.width)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.norm = Norm(cfg.width, cfg.eps)
        cos, sin = rope_tables(cfg)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, ids: Tensor) -> Tensor:
        """[batch, tokens] ids -> [batch, tokens, width], before the output matrix."""
        x = self.embed(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, tokens] ids -> [batch, tokens, vocab] logits."""
        return nnf.linear(self.hidden(ids), self.embed.weight)


def _look_back(block: Block, cfg: Config, head: int, back: int, constant: float) -> None:
    """Make one head attend `back` tokens to the left, through the constant channel 0."""
    rows = slice(head * cfg.head_dim, (head + 1) * cfg.head_dim)
    pairs = cfg.head_dim // 2
    strength = torch.zeros(pairs)
    strength[:12] = 5.5  # the fast frequencies give a sharp peak
    freq = cfg.rope_base ** (-torch.arange(pairs).float() / pairs)
    query = torch.stack((strength, torch.zeros(pairs)), -1).flatten()
    angle = freq * back
    key = torch.stack((strength * angle.cos(), strength * angle.sin()), -1).flatten()
    with torch.no_grad():
        block.q.weight[rows] *= 0.1
        block.k.weight[rows] *= 0.1
        block.q.weight[rows, 0] = query / constant
        block.k.weight[rows, 0] = key / constant


def init_weights(model: Llama, seed: int, look_back: bool = True) -> None:
    """Small normal weights; three heads of layer 0 start as looking 1, 2 and 3 tokens back.

    A model must first find such heads before it can copy what followed an earlier occurrence of
    the present words; with them given, it learns recall in a fraction of the tokens.
    """
    torch.manual_seed(seed)
    cfg = model.cfg
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                std = 0.02 if name.startswith("embed") else cfg.width**-0.5
                if name.endswith(("o.weight", "down.weight")):
                    std *= 0.5 / math.sqrt(cfg.layers)
                nn.init.normal_(p, 0.0, std)
        if look_back:
            model.embed.weight[:, 0] = 0.08
            constant = 0.08 / math.sqrt((0.08**2 + (cfg.width - 1) * 0.02**2) / cfg.width)
            for head in range(3):
                _look_back(model.blocks[0], cfg, head, head + 1, constant)


def save(model: Llama, path: Path, **extra: object) -> None:
    """Write a checkpoint, replacing an older one in one step."""
    state = {k.replace("_orig_mod.", ""): v for k, v in model.state_dict().items()}
    temp = path.with_suffix(".tmp")
    torch.save({"config": asdict(model.cfg), "state": state, **extra}, temp)
    temp.replace(path)


def load(path: Path) -> Llama:
    """Read a checkpoint written by `save`, in float32."""
    data = torch.load(path, map_location="cpu", weights_only=True)
    model = Llama(Config(**data["config"]))
    model.load_state_dict(data["state"])
    return model.eval()
