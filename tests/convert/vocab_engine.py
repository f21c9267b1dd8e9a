"""A vocabulary in the real engine: okno's fields written into a GGUF file, loaded vocab-only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as lib

from okno.convert.fields import Field
from okno.engines.llama_model import start_backend
from okno.engines.llama_vocab import LlamaVocabulary, vocabulary_of_model


def write_vocab(fields: Mapping[str, Field], path: Path) -> None:
    """A GGUF file with these fields and no tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in fields.items():
        add_field(writer, key, value)
    for key, number in (
        ("context_length", 64), ("embedding_length", 8), ("block_count", 1),
        ("feed_forward_length", 8), ("attention.head_count", 1), ("attention.head_count_kv", 1),
    ):  # fmt: skip
        writer.add_uint32(f"llama.{key}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def add_field(writer: gguf.GGUFWriter, key: str, value: Field) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:
        writer.add_array(key, value)


def load_vocab(fields: Mapping[str, Field], path: Path) -> LlamaVocabulary:
    """The engine's vocabulary of these fields; `path` is written."""
    write_vocab(fields, path)
    start_backend()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    assert model, "the engine does not load this vocabulary"
    return vocabulary_of_model(model, path)
