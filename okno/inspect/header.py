"""`read_header`: what is known of a model before it is loaded or even downloaded."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from okno.core.header import ModelHeader
from okno.inspect.gguf import GgufHeader, read_gguf
from okno.inspect.header_catalog import header_of_catalog
from okno.inspect.header_safetensors import header_of_safetensors
from okno.inspect.header_values import header_of_values
from okno.inspect.listing import stem_of
from okno.inspect.source import Source
from okno.inspect.source_open import CONFIG, open_source

__all__ = ["header_of_catalog", "header_of_gguf", "read_header"]


def read_header(where: str | Path) -> ModelHeader:
    """The header of the model at `where`: a GGUF file (any part of a split one), a safetensors
    file or folder; a path, an http(s) address, or `owner/repo[/file][:quant]` on the hub.

    Raises ModelNotFound, ModelUnusable, AccessDenied, SourceUnreachable.
    """
    with closing(open_source(where)) as source:
        if source.name == CONFIG or source.name.endswith(".safetensors"):
            return header_of_safetensors(source, _folder_name(source))
        return header_of_gguf(source, read_gguf(source))


def header_of_gguf(source: Source, gguf: GgufHeader) -> ModelHeader:
    """A GGUF header as okno speaks of it. Raises ModelUnusable for odd values."""
    return header_of_values(
        stem_of(Path(source.name)),
        "gguf",
        gguf.values,
        gguf.tensors,
        gguf.file_bytes,
        n_tokens=gguf.array_lengths.get("tokenizer.ggml.tokens", 0),
        where=source.where,
    )


def _folder_name(source: Source) -> str:
    """What a safetensors model is called: its folder or repository."""
    parts = [part for part in source.where.split("/")[:-1] if part not in ("", ".")]
    if "resolve" in parts:
        parts = parts[: parts.index("resolve")]
    return parts[-1] if parts else "model"
