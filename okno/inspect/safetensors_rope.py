"""Rotary positions as config.json describes them: the base, and how it was stretched.

Keys: transformers, modeling_rope_utils.py (`rope_parameters` since version 5, `rope_scaling` and
`rope_theta` before).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from okno.core.errors import ModelUnusable
from okno.inspect.safetensors_config import DEFAULT_CTX, Config

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
SPELLINGS = {"su": "longrope", "none": "default", "": "default"}
# The kinds whose factors the engine takes as tensors, by architecture (llama.cpp, src/models).
WITH_FACTORS = {"llama": ("llama3", "longrope"), "phi3": ("longrope",)}
MAX_FACTORS = 4096


@dataclass(frozen=True, slots=True)
class Rope:
    """kind: one of KINDS. n_rot: values of a head that turn. base, base_local: frequency base of
    the layers that see everything and of those with a window (None: the same). original_ctx:
    tokens the model was first trained on. long, short: factors of n_rot/2 frequencies. numbers:
    what else the configuration gives (`factor`, `beta_fast`, `low_freq_factor`, ...)."""

    kind: str
    n_rot: int
    base: float
    base_local: float | None
    ctx: int
    original_ctx: int
    long: tuple[float, ...]
    short: tuple[float, ...]
    numbers: Mapping[str, float]

    def number(self, key: str, default: float) -> float:
        return self.numbers.get(key, default)


def rope_of(config: Config, head_dim: int) -> Rope:
    """The rotary positions of a model. Raises ModelUnusable for a kind that is not known, or one
    without its numbers."""
    said = {**config.part("rope_scaling"), **config.part("rope_parameters")}
    local, full = said.get("sliding_attention"), said.get("full_attention")
    if isinstance(full, dict):
        said = full
    kind = str(said.get("rope_type", said.get("type", "default")) or "").lower()[:40]
    kind = SPELLINGS.get(kind, kind)
    if kind not in KINDS:
        raise ModelUnusable(
            f"{config.where} stretches its positions by {kind!r}; known are {', '.join(KINDS)}. "
            "Give a GGUF file of the model instead."
        )
    numbers = {key: float(value) for key, value in said.items() if _is_number(value)}
    ctx = config.number("max_position_embeddings") or DEFAULT_CTX
    original = numbers.get("original_max_position_embeddings", 0)
    share = numbers.get("partial_rotary_factor", config.real("partial_rotary_factor", 1.0))
    found = Rope(
        kind=kind,
        n_rot=int(head_dim * share),
        base=numbers.get("rope_theta", config.real("rope_theta", 10_000.0)),
        base_local=_local_base(config, local),
        ctx=ctx,
        original_ctx=int(original) or config.number("original_max_position_embeddings") or ctx,
        long=_factors(said.get("long_factor")),
        short=_factors(said.get("short_factor")),
        numbers=numbers,
    )
    _check(config, found)
    return found


def factor_tensors(rope: Rope, architecture: str) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors of frequency factors that the GGUF has, in ggml order."""
    if rope.kind not in WITH_FACTORS.get(architecture, ()):
        return []
    names = ("rope_factors_long", "rope_factors_short")
    chosen = ("rope_freqs",) if rope.kind == "llama3" else names
    return [(f"{name}.weight", (rope.n_rot // 2,)) for name in chosen]


def _check(config: Config, rope: Rope) -> None:
    needed = {"linear": ("factor",), "yarn": ("factor",), "llama3": ("factor",)}
    missing = [key for key in needed.get(rope.kind, ()) if rope.number(key, 0) <= 0]
    half = rope.n_rot // 2
    if rope.kind == "longrope" and (len(rope.long), len(rope.short)) != (half, half):
        missing = [f"long_factor and short_factor of {half} numbers"]
    if missing or rope.n_rot < 2 or rope.base <= 0 or rope.original_ctx < 2:
        what = ", ".join(missing) or "sound numbers"
        raise ModelUnusable(
            f"{config.where} gives rope positions of the kind {rope.kind!r} without {what}. The "
            "file is damaged or incomplete; get it again from its publisher."
        )


def _local_base(config: Config, local: object) -> float | None:
    if isinstance(local, dict) and _is_number(local.get("rope_theta")):
        return float(local["rope_theta"])
    found = config.real("rope_local_base_freq", 0.0)
    return found or None


def _factors(found: object) -> tuple[float, ...]:
    if not isinstance(found, list) or len(found) > MAX_FACTORS:
        return ()
    return tuple(float(item) for item in found if _is_number(item))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
