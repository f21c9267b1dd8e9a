"""What a probe of the CPU says; zero and empty are: it did not say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Instruction sets that decide how fast llama.cpp's kernels are (ggml/src/ggml-cpu), in the order
# they are shown. Linux has two names for some ARM features on 32-bit.
KERNEL_SIMD = (
    "ssse3", "avx", "f16c", "fma", "avx2", "bmi2", "avx_vnni",
    "avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16",
    "neon", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
    "vsx", "vxe", "vxe2", "rvv", "lsx", "lasx",
)  # fmt: skip
ALIASES = {"asimd": "neon", "fphp": "asimdhp"}


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """Caches in bytes over all cores."""

    name: str = ""
    physical_cores: int = 0
    logical_cores: int = 0
    simd: tuple[str, ...] = ()
    l1d_bytes: int = 0
    l2_bytes: int = 0
    l3_bytes: int = 0
    numa_nodes: int = 1


def kernel_simd(flags: Iterable[str]) -> tuple[str, ...]:
    """Of all the CPU's features those that matter here, by Linux' names."""
    there = {ALIASES.get(flag, flag) for flag in flags}
    return tuple(name for name in KERNEL_SIMD if name in there)


def whole(text: str | None) -> int:
    """A whole number; 0 for anything else."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
