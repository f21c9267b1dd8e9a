"""Whole checkpoints with packed layers, and the same models with their weights as floats."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from okno.bench.vocab import byte_bpe
from tests.convert.packers import Array, Truth, gptq

N_VOCAB = 384
DTYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "uint16": "BF16"}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
Floats = npt.NDArray[np.float32]
Pack = Callable[[Truth, str], Mapping[str, Array]]
SMALL = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "vocab_size": N_VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}


@dataclass(frozen=True)
class Packer:
    """How layers are packed. act_order: the inputs of layers whose names end so are in groups at
    random, in the same way for layers with the same inputs."""

    said: Mapping[str, object]
    pack: Pack = gptq
    symmetric: bool = True
    act_order: tuple[str, ...] = ()
    zero_bias: bool = False


def write_pair(
    folder: Path, kind: str, packer: Packer, settings: Mapping[str, object] | None = None
) -> tuple[Path, Path]:
    """(packed, plain): two folders with checkpoints of one model of `kind` (a model_type)."""
    config = {**SMALL, **(settings or {}), "model_type": kind, "torch_dtype": "float32"}
    rng = np.random.default_rng(11)
    packed: dict[str, Array] = {}
    plain: dict[str, Array] = {}
    for name, shape in _layers(kind, config):
        truth = rounded(rng, shape, packer, name)
        packed |= packer.pack(truth, name)
        plain[f"{name}.weight"] = truth.weights().astype(np.float32)
        if packer.zero_bias:
            packed[f"{name}.bias"] = np.zeros(shape[0], np.float16)
        if kind == "qwen2" and name.endswith(("q_proj", "k_proj", "v_proj")):
            plain[f"{name}.bias"] = packed[f"{name}.bias"] = _noise(rng, shape[0])
    for name, size in _others(config):
        noise = _noise(rng, *size)
        plain[name] = packed[name] = 1 + noise if len(size) == 1 else noise
    said = {**config, "quantization_config": packer.said}
    return (
        _write(folder / "packed", said, packed),
        _write(folder / "plain", config, plain),
    )


def rounded(rng: np.random.Generator, shape: tuple[int, int], packer: Packer, name: str) -> Truth:
    """Weights rounded to the nearest, groups of 32 inputs."""
    outputs, inputs = shape
    bits = packer.said.get("bits", 4)
    assert isinstance(bits, int)
    weights = rng.standard_normal((inputs, outputs)) * 1.5 * inputs**-0.5
    groups = np.arange(inputs) // 32
    if name.endswith(packer.act_order):
        same = name.rsplit(".", 1)[0] + ("" if name.endswith(("down_proj", "w2")) else "in")
        np.random.default_rng(list(same.encode())).shuffle(groups)
    each = [weights[groups == g] for g in range(inputs // 32)]
    most = 2**bits - 1
    if packer.symmetric:
        scales = np.array([np.abs(w).max(0) / (most / 2) for w in each]).astype(np.float16)
        zeros = np.full(scales.shape, 2 ** (bits - 1))
    else:
        scales = np.array([(w.max(0) - w.min(0)) / most for w in each]).astype(np.float16)
        zeros = np.array([np.rint(-w.min(0) / s) for w, s in zip(each, scales, strict=True)])
        zeros = np.clip(zeros, 1, most).astype(np.int64)
    numbers = np.rint(weights / scales[groups]) + zeros[groups]
    return Truth(np.clip(numbers, 0, most).astype(np.int64), zeros, scales, groups, bits)


def _layers(kind: str, config: Mapping[str, object]) -> list[tuple[str, tuple[int, int]]]:
    """(name, (outputs, inputs)) of the linear layers."""
    width, inner = int(str(config["hidden_size"])), int(str(config["intermediate_size"]))
    heads, kv = int(str(config["num_attention_heads"])), int(str(config["num_key_value_heads"]))
    narrow = width * kv // heads
    attention = {"q_proj": width, "k_proj": narrow, "v_proj": narrow}
    found = []
    for n in range(int(str(config["num_hidden_layers"]))):
        layer = f"model.layers.{n}"
        own = {"qkv_proj": width + 2 * narrow} if kind == "phi3" else attention
        found += [(f"{layer}.self_attn.{name}", (size, width)) for name, size in own.items()]
        found.append((f"{layer}.self_attn.o_proj", (width, width)))
        if kind == "mixtral":
            for expert in range(4):
                at = f"{layer}.block_sparse_moe.experts.{expert}"
                found += [(f"{at}.w1", (inner, width)), (f"{at}.w3", (inner, width))]
                found.append((f"{at}.w2", (width, inner)))
            continue
        parts = {"gate_up_proj": 2 * inner} if kind == "phi3" else {
            "gate_proj": inner, "up_proj": inner
        }  # fmt: skip
        found += [(f"{layer}.mlp.{name}", (size, width)) for name, size in parts.items()]
        found.append((f"{layer}.mlp.down_proj", (width, inner)))
    return found


def _others(config: Mapping[str, object]) -> list[tuple[str, tuple[int, ...]]]:
    width = int(str(config["hidden_size"]))
    found: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", (N_VOCAB, width)), ("lm_head.weight", (N_VOCAB, width)),
        ("model.norm.weight", (width,)),
    ]  # fmt: skip
    for n in range(int(str(config["num_hidden_layers"]))):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found.append((f"model.layers.{n}.{norm}.weight", (width,)))
        if config["model_type"] == "mixtral":
            found.append((f"model.layers.{n}.block_sparse_moe.gate.weight", (4, width)))
    return found


def _noise(rng: np.random.Generator, *size: int) -> Floats:
    scale = 0.3 if len(size) == 1 else 1.5 * size[1] ** -0.5
    return (scale * rng.standard_normal(size)).astype(np.float32)


def _write(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Array]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)
    _write_tokenizer(folder)
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, Array]) -> None:
    entries, data = {}, b""
    for name, value in tensors.items():
        start, data = len(data), data + np.ascontiguousarray(value).tobytes()
        entries[name] = {"dtype": DTYPES[value.dtype.name], "shape": list(value.shape),
                         "data_offsets": [start, len(data)]}  # fmt: skip
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def _write_tokenizer(folder: Path) -> None:
    """The byte-level BPE of the benches, as the tokenizers library stores one."""
    vocab = byte_bpe(N_VOCAB)
    special = [
        {"id": n, "content": vocab.tokens[n], "special": True, "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False}
        for n in sorted(vocab.control)
    ]  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
              "use_regex": False}  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "post_processor": None, "added_tokens": special,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: n for n, token in enumerate(vocab.tokens)},
                  "merges": [merge.split(" ") for merge in vocab.merges]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": vocab.tokens[1]})
    )
