"""Checkpoints written byte by byte, without torch: sound ones, and such with something wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32", "uint8": "U8"}
LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "hidden_act": "silu", "eos_token_id": 256,
}  # fmt: skip


def llama_weights(config: Mapping[str, Any] = LLAMA, *, tied: bool = False) -> dict[str, Array]:
    """Random float32 weights of the shapes that `config` asks for."""
    width, ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)
    }  # fmt: skip
    if not tied:
        shapes["lm_head.weight"] = (vocab, width)
    for il in range(config["num_hidden_layers"]):
        block = f"model.layers.{il}"
        shapes |= {
            f"{block}.input_layernorm.weight": (width,),
            f"{block}.post_attention_layernorm.weight": (width,),
            f"{block}.self_attn.q_proj.weight": (width, width),
            f"{block}.self_attn.k_proj.weight": (kv, width),
            f"{block}.self_attn.v_proj.weight": (kv, width),
            f"{block}.self_attn.o_proj.weight": (width, width),
            f"{block}.mlp.gate_proj.weight": (ff, width),
            f"{block}.mlp.up_proj.weight": (ff, width),
            f"{block}.mlp.down_proj.weight": (width, ff),
        }
    random = np.random.default_rng(5)
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_shard(path: Path, tensors: Mapping[str, Array]) -> None:
    """A safetensors file. uint16 arrays are the bits of BF16."""
    entries, end = {}, 0
    for name, values in tensors.items():
        places = [end, end + values.nbytes]
        dtype = NAMES[str(values.dtype)]
        entries[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": places}
        end += values.nbytes
    header = json.dumps(entries).encode()
    data = b"".join(np.ascontiguousarray(values).tobytes() for values in tensors.values())
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Array] | None = None,
    config: Mapping[str, Any] = LLAMA,
    n_shards: int = 1,
) -> Path:
    """A whole folder: weights, config.json and a tokenizer of 257 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = llama_weights(config) if tensors is None else tensors
    names = list(tensors)
    index = {}
    for number in range(n_shards):
        mine = names[number::n_shards]
        file = f"model-{number + 1:05d}-of-{n_shards:05d}.safetensors"
        file = "model.safetensors" if n_shards == 1 else file
        write_shard(folder / file, {name: tensors[name] for name in mine})
        index |= dict.fromkeys(mine, file)
    if n_shards > 1:
        text = json.dumps({"weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Bytes as tokens, by the rules of GPT-2, and one that ends."""
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": 256, "content": "<|end|>", "special": True, "normalized": False,
             "single_word": False, "lstrip": False, "rstrip": False},
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": byte_tokens(), "merges": [], "unk_token": None,
                  "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"})
    )


def byte_tokens() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes (openai/gpt-2, encoder.py, bytes_to_unicode)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1),
             *range(ord("®"), ord("ÿ") + 1)]  # fmt: skip
    others = [byte for byte in range(256) if byte not in plain]
    characters = [chr(byte) for byte in plain] + [chr(256 + n) for n in range(len(others))]
    return {character: n for n, character in enumerate(characters)}
