"""Names of options as llama_context_params numbers them; loads no engine."""

from __future__ import annotations

from okno.core.errors import BadSetting
from okno.core.load import FlashAttention
from okno.core.window import KVType

KV_TYPES: dict[KVType, int] = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2}  # ggml_type
FLASH: dict[FlashAttention, int] = {"auto": -1, "off": 0, "on": 1}  # llama_flash_attn_type


def kv_type_named(name: str) -> KVType:
    """`name`, or BadSetting."""
    for known in KV_TYPES:
        if known == name:
            return known
    raise BadSetting(f"KV type {name!r} is unknown; possible are {', '.join(KV_TYPES)}.")
