"""How a checkpoint says its linear layers are packed: GPTQ and AWQ, from its configuration.

Formats: AutoGPTQ (auto_gptq/nn_modules/qlinear), GPTQModel (gptqmodel/quantization/config.py), AWQ
(awq/modules/linear). Old repositories say it in quantize_config.json, newer ones in config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from okno.core.errors import ModelUnusable

Layout = Literal["gptq", "gptq_v2", "gemm", "gemv"]
LAYOUTS: tuple[Layout, ...] = ("gptq", "gptq_v2", "gemm", "gemv")
GPTQ_BITS = (2, 3, 4, 8)
PARTS = ("qweight", "qzeros", "scales", "g_idx")
INSTEAD = "Give a GGUF file of the model, or the checkpoint it was packed from."
# Layouts written by tools for one kind of GPU, which no other program reads.
FOR_ONE_GPU = ("marlin", "bitblas", "gemv_fast", "ipex", "tritonv2_packed")


@dataclass(frozen=True, slots=True)
class Packing:
    """bits: of a weight, unless the layer's own shapes say otherwise (has_exceptions). group_size:
    inputs that share a scale, -1: all. layout: `gptq` stores zero points minus one, `gptq_v2` as
    they are; `gemm` and `gemv` are AWQ's. where: for messages."""

    bits: int
    group_size: int
    layout: Layout
    where: str
    has_exceptions: bool = False

    @property
    def method(self) -> Literal["GPTQ", "AWQ"]:
        return "GPTQ" if self.layout in ("gptq", "gptq_v2") else "AWQ"


def packing_of(
    config: Mapping[str, object], quantize_config: Mapping[str, object], where: str
) -> Packing | None:
    """The packing that config.json or (`quantize_config`) quantize_config.json tells; None for a
    checkpoint without one. where: the folder, for messages.

    Raises ModelUnusable for a method or layout that is not read, and for impossible sizes.
    """
    said = _section(config) or quantize_config
    if not said:
        return None
    method = str(said.get("quant_method", "gptq")).lower()[:40]
    if method not in ("gptq", "awq", "gptqmodel"):
        return None  # another packing, which others read or refuse
    if method == "awq":
        return _awq(said, where)
    return _gptq(said, where)


def _section(config: Mapping[str, object]) -> Mapping[str, object]:
    """`quantization_config` of config.json, or of its language part."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        found = part.get("quantization_config")
        if isinstance(found, dict):
            return found
    return {}


def _gptq(said: Mapping[str, object], where: str) -> Packing:
    written = str(said.get("checkpoint_format", said.get("format", "gptq"))).lower()[:40]
    if said.get("is_marlin_format") is True:
        written = "marlin"
    if written not in ("gptq", "gptq_v2"):
        raise _unread(where, "GPTQ", written)
    bits = _number(said, where, "bits", "w_bit", "wbits")
    if bits not in GPTQ_BITS:
        raise ModelUnusable(
            f"{where} says its GPTQ weights have {bits} bits; 2, 3, 4 and 8 are possible. {INSTEAD}"
        )
    return Packing(
        bits,
        _group(said, where),
        "gptq_v2" if written == "gptq_v2" else "gptq",
        where,
        has_exceptions=bool(said.get("dynamic")),
    )


def _awq(said: Mapping[str, object], where: str) -> Packing:
    written = str(said.get("version", "gemm")).lower()[:40]
    if written == "exllama":
        written = "gemm"  # says how AutoAWQ is to compute; the file is written as for gemm
    if written not in ("gemm", "gemv"):
        raise _unread(where, "AWQ", written)
    bits = _number(said, where, "bits", "w_bit")
    if bits != 4:
        raise ModelUnusable(
            f"{where} says its AWQ weights have {bits} bits; only 4 are possible. {INSTEAD}"
        )
    return Packing(bits, _group(said, where), "gemm" if written == "gemm" else "gemv", where)


def _group(said: Mapping[str, object], where: str) -> int:
    found = _number(said, where, "group_size", "q_group_size", "groupsize")
    if found == -1 or 1 <= found < 2**20:
        return found
    raise ModelUnusable(
        f"{where} says {found} inputs share a scale (group_size); it must be a positive number, or "
        f"-1 for all. {INSTEAD}"
    )


def _number(said: Mapping[str, object], where: str, *keys: str) -> int:
    """The first of `keys` that is there."""
    for key in keys:
        found = said.get(key)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
        if found is not None:
            raise ModelUnusable(f"{where} gives {str(found)[:40]!r} for {key}. {INSTEAD}")
    raise ModelUnusable(
        f"{where} is packed and does not say its {keys[0]}: neither the quantization_config of "
        "config.json nor quantize_config.json has it. Get these files again, or give a GGUF file."
    )


def _unread(where: str, method: str, written: str) -> ModelUnusable:
    hint = " It was rearranged for one kind of GPU." if written in FOR_ONE_GPU else ""
    return ModelUnusable(
        f"{where} holds {method} weights in the layout {written!r}; these can be read: "
        f"{', '.join(LAYOUTS)}.{hint} {INSTEAD}"
    )
