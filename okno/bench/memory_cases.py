"""The loads that predicted memory is measured on: every family, window, cache type, load mode."""

from __future__ import annotations

from dataclasses import dataclass

from okno.bench.chosen import chosen
from okno.bench.quantise import FileType
from okno.core.load import FlashAttention, Load
from okno.core.window import KVType, Window


@dataclass(frozen=True, slots=True)
class Case:
    """A shape model in a number format, under a window."""

    shape: str
    file_type: FileType
    batch_size: int
    ctx: int
    kv_type: KVType = "f16"
    mmap: bool = False
    flash_attention: FlashAttention = "auto"

    @property
    def model(self) -> str:
        return f"{self.shape}-{self.file_type}"

    @property
    def name(self) -> str:
        mode = " mmap" if self.mmap else ""
        plain = " no-fa" if self.flash_attention == "off" else ""
        return f"{self.model} {self.batch_size}x{self.ctx} {self.kv_type}{mode}{plain}"

    @property
    def load(self) -> Load:
        window = Window(
            self.batch_size, self.ctx, self.batch_size * self.ctx, self.kv_type,
            max(256, self.batch_size),
        )  # fmt: skip
        return Load(window, self.mmap, self.flash_attention)


# Windows whose filling takes seconds to a minute on two cores.
_WINDOWS: tuple[tuple[int, int, KVType, bool], ...] = (
    (1, 512, "f16", False),
    (1, 8192, "q8_0", False),
    (4, 2048, "q4_0", True),
    (16, 512, "f16", False),
    (2, 1024, "f16", True),
)
_FAMILIES: tuple[tuple[str, FileType], ...] = (
    ("llama-mid", "Q4_0"),
    ("mha-mid", "Q8_0"),
    ("qwen3-mid", "Q4_K_M"),
    ("gemma3-mid", "Q4_0"),
    ("gpt-oss-mid", "MXFP4"),
    ("qwen3moe-mid", "Q4_0"),
    ("deepseek2-mid", "Q4_0"),
    ("mamba2-mid", "F16"),
    ("granite-mid", "Q4_K_M"),
    ("lfm2-mid", "Q8_0"),
    ("phi-mid", "Q4_K_M"),
)
CASES: tuple[Case, ...] = (
    *(Case(shape, kind, *window) for shape, kind in _FAMILIES for window in _WINDOWS),
    Case("bert-mid", "F16", 1, 512),
    Case("bert-mid", "Q8_0", 4, 512, mmap=True),
    Case("llama-mid", "Q4_0", 1, 32_768, "q8_0"),
    Case("gemma3-mid", "Q4_0", 1, 32_768, "f16"),
    Case("mamba2-mid", "F16", 16, 2048),
    Case("lfm2-mid", "Q8_0", 1, 32_768, "q4_0"),
    Case("qwen3-mid", "Q4_K_M", 1, 4096, "f16", False, "off"),
    Case("llama-mid", "Q4_0", 16, 1024, "f16", False, "off"),
    Case("llama-135m", "BF16", 8, 1024, "q8_0"),
    Case("llama-1b", "Q4_0", 1, 2048, "f16"),
    Case("llama-1b", "Q4_0", 4, 512, "q8_0", True),
    Case("llama-13b", "Q4_0", 1, 512, "f16"),
    Case("llama-13b", "Q4_0", 1, 2048, "q8_0"),
    Case("llama-13b", "Q4_0", 2, 512, "f16", True),
)


def cases(wanted: str | None = None) -> tuple[Case, ...]:
    """All cases, or those that `wanted` names (okno/bench/chosen.py). Raises BadSetting when it
    names none."""
    return chosen(CASES, wanted)
