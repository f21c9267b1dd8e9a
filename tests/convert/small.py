"""A small Llama checkpoint without torch: random weights, a byte-level vocabulary."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.inspect.test_safetensors import LLAMA, llama_weights

N_VOCAB = 288
END = "<|end|>"


def small_checkpoint(folder: Path, dtype: str = "F16", **config: object) -> Path:
    """Everything that `okno serve` needs of a checkpoint, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in small_files(dtype, **config).items():
        (folder / name).write_bytes(data)
    return folder


def small_files(dtype: str = "F16", **config: object) -> dict[str, bytes]:
    """Its files by name."""
    shapes = {name: shape for name, (_, shape) in llama_weights().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        shapes[name] = (N_VOCAB, 64)
    told = dict(LLAMA) | {"vocab_size": N_VOCAB} | config
    return {
        "config.json": json.dumps(told).encode(),
        "tokenizer.json": json.dumps(tokenizer()).encode(),
        "tokenizer_config.json": json.dumps({"eos_token": END}).encode(),
        "generation_config.json": b'{"temperature": 0.25, "do_sample": true}',
        "model.safetensors": weights(shapes, dtype),
    }


def weights(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    """Random tensors of these shapes as a safetensors file."""
    rng = np.random.default_rng(7)
    numbers = {"F16": np.float16, "F32": np.float32}[dtype]
    entries: dict[str, object] = {}
    body = b""
    for name, shape in shapes.items():
        data = (rng.standard_normal(shape) * 0.2 + ("norm" in name)).astype(numbers).tobytes()
        place = [len(body), len(body) + len(data)]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        body += data
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + body


def tokenizer() -> dict[str, object]:
    """A tokenizer.json: a token for each byte (GPT-2 writes bytes as letters), an end, a merge."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": 256, "content": END, "special": True}],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": {letter: place for place, letter in enumerate(letters)}
            | {END: 256, "ab": 257},
            "merges": ["a b"],
        },
    }
