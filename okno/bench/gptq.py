"""GPTQ checkpoints with random weights, as TheBloke's repositories have them.

    python -m okno.bench.gptq llama-13b --out models/Saiga-13B-GPTQ

writes a folder for `okno serve --model`: weights of Llama-2-13B's shape in 4 bits, a SentencePiece
vocabulary and Saiga's chat template. Needs the sentencepiece package.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from okno.bench.sentencepiece_vocab import write_tokenizer
from okno.bench.shapes import PRESETS
from okno.bench.tensors import Shape

SHAPES = ("llama-13b", "llama-1b", "tiny", "mha-tiny")
DTYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "F16": np.dtype("<f2")}
# Numbers of real layers: spread around the middle like a normal distribution whose largest of 128
# is the largest that the bits hold.
SPREAD = {4: 2.9, 8: 48.0}
ZERO_SPREAD = 0.125  # of that: zero points of asymmetric layers around the middle
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Options:
    """bits: 4 or 8. group: inputs that share a scale. act_order: inputs in groups at random, the
    same for layers with the same inputs. zero_bias: each layer has a bias of zeros, as files of
    GPTQ-for-LLaMa do."""

    bits: int = 4
    group: int = 128
    symmetric: bool = True
    act_order: bool = False
    zero_bias: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the file. group_key: layers with the same key have the same order of inputs."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    columns: int = 0
    group_key: str = ""

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_gptq(shape: Shape, folder: Path, options: Options) -> int:
    """Write the checkpoint into `folder` and return the bytes of its weights. Memory stays near the
    size of the largest tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _config(shape, options))
    _write_json(folder / "quantize_config.json", _quantize_config(options))
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    return _write_weights(folder / "model.safetensors", list(_entries(shape, options)), options)


def _config(shape: Shape, options: Options) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.n_vocab,
        "hidden_size": shape.n_embd,
        "intermediate_size": shape.n_ff,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_head_kv,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.ctx_train,
        "rms_norm_eps": 1e-5,
        "rope_theta": shape.rope_base,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "quantization_config": {**_quantize_config(options), "quant_method": "gptq"},
    }


def _quantize_config(options: Options) -> dict[str, object]:
    return {
        "bits": options.bits,
        "group_size": options.group,
        "damp_percent": 0.1,
        "desc_act": options.act_order,
        "sym": options.symmetric,
        "true_sequential": True,
    }


def _entries(shape: Shape, options: Options) -> Iterator[Entry]:
    """Every tensor in the order of the file."""
    width, kv = shape.n_embd, shape.n_head_kv * shape.head_dim
    yield Entry("model.embed_tokens.weight", "F16", (shape.n_vocab, width))
    for layer in range(shape.n_layer):
        name = f"model.layers.{layer}"
        yield Entry(f"{name}.input_layernorm.weight", "F16", (width,))
        yield Entry(f"{name}.post_attention_layernorm.weight", "F16", (width,))
        heads = shape.n_head * shape.head_dim
        for part, rows, columns, inputs in (
            ("self_attn.q_proj", heads, width, "attn"), ("self_attn.k_proj", kv, width, "attn"),
            ("self_attn.v_proj", kv, width, "attn"), ("self_attn.o_proj", width, heads, "o"),
            ("mlp.gate_proj", shape.n_ff, width, "mlp"), ("mlp.up_proj", shape.n_ff, width, "mlp"),
            ("mlp.down_proj", width, shape.n_ff, "down"),
        ):  # fmt: skip
            yield from _layer(f"{name}.{part}", rows, columns, f"{layer}.{inputs}", options)
    yield Entry("model.norm.weight", "F16", (width,))
    yield Entry("lm_head.weight", "F16", (shape.n_vocab, width))


def _layer(name: str, rows: int, columns: int, key: str, options: Options) -> Iterator[Entry]:
    bits, groups = options.bits, -(-columns // options.group)
    yield Entry(f"{name}.qweight", "I32", (columns * bits // 32, rows))
    yield Entry(f"{name}.qzeros", "I32", (groups, rows * bits // 32))
    yield Entry(f"{name}.scales", "F16", (groups, rows), columns)
    yield Entry(f"{name}.g_idx", "I32", (columns,), columns, key)
    if options.zero_bias:
        yield Entry(f"{name}.bias", "F16", (rows,))


def _write_weights(path: Path, entries: list[Entry], options: Options) -> int:
    """A safetensors file: length of the header, header, data. It appears when it is whole."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + entry.n_bytes
        header[entry.name] = {
            "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            file.write(np.ascontiguousarray(_values(entry, options)).data)
    os.replace(part, path)
    return path.stat().st_size


def _values(entry: Entry, options: Options) -> Array:
    """What the tensor holds: the same for the same seed and name."""
    key = entry.group_key or entry.name
    rng = np.random.Generator(np.random.SFC64([options.seed, zlib.crc32(key.encode())]))
    kind = DTYPES[entry.dtype]
    if entry.name.endswith(".g_idx"):
        groups = np.arange(entry.columns, dtype=kind) // options.group
        return rng.permutation(groups) if options.act_order else groups
    if entry.name.endswith(".qzeros") and options.symmetric:
        zero = 2 ** (options.bits - 1) - 1  # stored minus one
        word = sum(zero << shift for shift in range(0, 32, options.bits))
        return np.full(entry.shape, word, np.uint32).view(kind)
    if entry.dtype == "I32":
        is_zero = entry.name.endswith(".qzeros")
        words = _words(rng, entry.n_bytes, options.bits, ZERO_SPREAD if is_zero else 1.0)
        return words.view(kind).reshape(entry.shape)
    return _floats(entry, options, rng).astype(kind)


def _words(
    rng: np.random.Generator, n_bytes: int, bits: int, spread: float
) -> npt.NDArray[np.uint8]:
    """Numbers of so many bits, packed: drawn by a table from random bytes."""
    normal = NormalDist(2 ** (bits - 1), spread * SPREAD[bits])
    drawn = [round(normal.inv_cdf((n + 0.5) / 256)) for n in range(256)]
    table = np.clip(drawn, 0, 2**bits - 1).astype(np.uint8)
    per_byte = 8 // bits
    found = table[np.frombuffer(rng.bytes(n_bytes * per_byte), np.uint8)]
    if per_byte == 1:
        return found
    low, high = found[:n_bytes], found[n_bytes:]
    np.left_shift(high, np.uint8(4), out=high)
    np.bitwise_or(low, high, out=low)
    return low


def _floats(entry: Entry, options: Options, rng: np.random.Generator) -> Array:
    """Scales for weights of the size 1 / sqrt(inputs), norms of ones, embeddings."""
    if entry.name.endswith(".bias"):
        return np.zeros(entry.shape, np.float32)
    if entry.name.endswith(".scales"):
        size = 1 / (SPREAD[options.bits] * entry.columns**0.5)
        return rng.uniform(0.7 * size, 1.3 * size, entry.shape)
    if len(entry.shape) == 1:
        return np.ones(entry.shape, np.float32)
    return rng.standard_normal(entry.shape, np.float32) * np.float32(entry.shape[1] ** -0.5)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m okno.bench.gptq",
        description="Write a GPTQ checkpoint with random weights.",
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--group", type=int, default=128, help="inputs that share a scale")
    parser.add_argument("--asymmetric", action="store_true", help="zero points at random")
    parser.add_argument("--act-order", action="store_true", help="inputs in groups at random")
    parser.add_argument("--zero-bias", action="store_true", help="biases of zeros, as in old files")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line: writes the folder and prints what is in it."""
    given = _parser().parse_args(arguments)
    shape = PRESETS[given.shape]
    options = Options(
        given.bits, given.group, not given.asymmetric, given.act_order, given.zero_bias, given.seed
    )
    size = write_gptq(shape, given.out, options)
    write_tokenizer(given.out, shape.n_vocab)
    sys.stdout.write(f"{given.out}: {shape.name} GPTQ {given.bits}-bit, {size / 1e9:.2f} GB\n")


if __name__ == "__main__":
    main()
