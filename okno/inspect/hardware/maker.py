"""The makers' figures of common accelerators: memory bandwidth and dense f16 rate.

From data/accelerators.toml, where each entry names its source. Unknown stays unknown.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from okno.core.machine import DeviceKind

TABLE = Path(__file__).parents[2] / "data" / "accelerators.toml"
GIB = 1 << 30
SIZE_TOLERANCE = 0.12  # drivers keep a part of the memory for themselves (ECC takes 1/16)
# Words that say nothing about the variant, and words of which each makes another device.
NOISE = frozenset((
    "nvidia", "amd", "ati", "intel", "apple", "geforce", "radeon", "instinct", "tesla", "quadro",
    "graphics", "gpu", "corporation", "advanced", "micro", "devices", "inc", "generation",
))  # fmt: skip
TELLING = frozenset((
    "ti", "super", "xt", "xtx", "gre", "pro", "max", "ultra", "laptop", "mobile", "ada", "pcie",
    "nvl", "nano", "nx", "d", "q",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class MakerFigures:
    """bandwidth in bytes/s (decimal), flops_f16: dense f16 or bf16 operations/s of the matrix
    units where there are such. cores: tells Apple's variants apart. unified: as in Device.
    source: the maker's document."""

    name: str
    kind: DeviceKind
    memory_bytes: int | None
    bandwidth_bytes_s: float
    flops_f16: float | None
    source: str
    cores: int | None = None
    unified: bool = False


def figures_of(
    name: str, total_bytes: int | None = None, cores: int | None = None
) -> MakerFigures | None:
    """The entry for a device called `name`; None when there is none, or several that differ.

    total_bytes and cores choose among variants of one name (A100 40 and 80 GB, M3 Max).
    """
    fitting = [one for one in variants_of(name) if _fits(one, total_bytes, cores)]
    figures = {(one.bandwidth_bytes_s, one.memory_bytes) for one in fitting}
    return fitting[0] if len(figures) == 1 else None


def variants_of(name: str) -> list[MakerFigures]:
    """Every entry of that name, whatever its size: those with the most words in common."""
    words = _words(name)
    matching = [one for one in table() if _is_name(_words(one.name), words)]
    longest = max((len(_words(one.name)) for one in matching), default=0)
    return [one for one in matching if len(_words(one.name)) == longest]


def known_names(near: str) -> list[str]:
    """Names in the table that look like `near`, best first."""
    by_name = {one.name.lower(): one.name for one in table()}
    found = difflib.get_close_matches(near.lower()[:80], by_name, n=3, cutoff=0.4)
    return [by_name[name] for name in found]


@cache
def table() -> tuple[MakerFigures, ...]:
    """All entries."""
    with TABLE.open("rb") as file:
        content = tomllib.load(file)
    return tuple(_entry(entry, content["sources"]) for entry in content["accelerator"])


def _entry(entry: dict[str, Any], sources: dict[str, str]) -> MakerFigures:
    memory, tflops = entry.get("memory_gib"), entry.get("f16_tflops")
    return MakerFigures(
        name=entry["name"],
        kind=entry["kind"],
        memory_bytes=None if memory is None else int(memory * GIB),
        bandwidth_bytes_s=entry["bandwidth_gb_s"] * 1e9,
        flops_f16=None if tflops is None else tflops * 1e12,
        source=sources[entry["source"]],
        cores=entry.get("cores"),
        unified=entry.get("unified", False),
    )


def _is_name(entry: frozenset[str], device: frozenset[str]) -> bool:
    return bool(entry) and entry <= device and not (device - entry) & TELLING


def _fits(one: MakerFigures, total_bytes: int | None, cores: int | None) -> bool:
    if cores is not None and one.cores is not None and cores != one.cores:
        return False
    if total_bytes is None or one.memory_bytes is None:
        return True
    return abs(one.memory_bytes - total_bytes) <= SIZE_TOLERANCE * one.memory_bytes


@cache
def _words(name: str) -> frozenset[str]:
    """`NVIDIA GeForce RTX 4090 Laptop GPU` is rtx, 4090, laptop; `A100-SXM4-80GB` is a100, sxm4,
    80gb. What stands in parentheses is the driver's."""
    text = re.sub(r"\([^()]*\)", " ", name.lower()[:200])
    return frozenset(_without_noise(re.findall(r"[a-z0-9]+", text)))


def _without_noise(parts: Iterable[str]) -> Iterable[str]:
    return (part for part in parts if part not in NOISE)
