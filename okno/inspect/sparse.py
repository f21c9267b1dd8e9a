"""Sparse files for the engine's dry run: a header on disk, and a hole where the weights would be.

The engine states its memory exactly from such a file, so this works before anything is downloaded.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from okno.core.errors import ModelUnusable
from okno.core.header import ModelHeader
from okno.inspect.gguf import SHARD, read_gguf_file, shard_names
from okno.inspect.gguf_write import write_hollow_gguf
from okno.inspect.source import LAST_BLOCK_BYTES, Source
from okno.inspect.source_open import open_source

# Without a vocabulary the engine makes room for as many tokens as the header says.
NO_VOCABULARY = "none"
TOKEN_TYPES = "tokenizer.ggml.token_type_count"  # encoders have a table of these


def write_sparse(where: str | Path, path: Path) -> Path:
    """Copy the header of the GGUF model at `where` (as for read_header) to the sparse file `path`.

    A split model gives one file for each part, beside `path`, numbered as the parts are. Returns
    the (first) file. Raises as read_header.
    """
    with closing(open_source(where)) as source:
        if not source.name.endswith(".gguf"):
            raise ModelUnusable(f"{source.where} is no GGUF file: write_header_gguf makes one.")
        if SHARD.match(source.name) is None:
            return _copy(source, path)
        targets = [_numbered(path, name) for name in shard_names(source)]
        for name, target in zip(shard_names(source), targets, strict=True):
            with closing(source.sibling(name)) as part:
                _copy(part, target)
        return targets[0]


def write_header_gguf(header: ModelHeader, path: Path) -> Path:
    """A sparse GGUF of `header`, for models known by their shape alone (catalog, safetensors).

    It has no vocabulary: the engine loads it and knows its memory, but no text can be tokenised.
    """
    own = f"{header.architecture}.vocab_size"
    values = {
        key: value
        for key, value in header.metadata.items()
        if key == TOKEN_TYPES or not key.startswith(("tokenizer.", "split."))
    }
    values |= {own: header.n_vocab, "tokenizer.ggml.model": NO_VOCABULARY}
    write_hollow_gguf(path, values, header.tensors)
    return path


def _copy(source: Source, path: Path) -> Path:
    """The header of one file; the rest of `path` is a hole."""
    end = read_gguf_file(source).data_offset
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            for offset in range(0, end, LAST_BLOCK_BYTES):
                file.write(source.read(offset, min(LAST_BLOCK_BYTES, end - offset)))
            file.truncate(source.size_bytes)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _numbered(path: Path, name: str) -> Path:
    """`path` with the number of the part `name`, which the engine looks for."""
    match = SHARD.match(name)
    assert match is not None
    return path.with_name(f"{path.name.removesuffix('.gguf')}-{match[2]}-of-{match[3]}.gguf")
