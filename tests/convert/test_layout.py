"""Which tensors make which: names as publishers have them, and what is done to the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from okno.convert.progress import silent
from okno.convert.ready import convert
from okno.convert.values import as_floats, encoded, in_pairs
from okno.convert.wants import Wants
from okno.inspect.header import read_header
from tests.convert.checkpoint_files import LLAMA, Array, llama_weights, write_checkpoint

MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))


def made(folder: Path, weights: dict[str, Array], config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every tensor of the converted model in 32 bits, outermost dimension first."""
    write_checkpoint(folder, weights, config)
    path = convert(folder, folder.parent / f"{folder.name}.gguf", Wants(), silent).path
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }


def mixtral_weights() -> dict[str, Array]:
    """As Mixtral was published: every projection of every expert a tensor."""
    found = {name: w for name, w in llama_weights().items() if ".mlp." not in name}
    random = np.random.default_rng(9)
    for il in range(2):
        moe = f"model.layers.{il}.block_sparse_moe"
        found[f"{moe}.gate.weight"] = random.standard_normal((3, 64), np.float32)
        for expert in range(3):
            for part, shape in (("w1", (128, 64)), ("w2", (64, 128)), ("w3", (128, 64))):
                name = f"{moe}.experts.{expert}.{part}.weight"
                found[name] = random.standard_normal(shape, np.float32)
    return found


def test_experts_are_stacked_in_their_order(tmp_path: Path) -> None:
    weights = mixtral_weights()
    found = made(tmp_path / "m", weights, MIXTRAL)
    for part, name in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
        wanted = [
            weights[f"model.layers.1.block_sparse_moe.experts.{n}.{part}.weight"] for n in range(3)
        ]
        assert np.array_equal(found[f"blk.1.ffn_{name}_exps.weight"], np.stack(wanted))


def test_experts_in_one_tensor_are_taken_apart(tmp_path: Path) -> None:
    """As transformers 5 holds them: gate and up below each other, for all experts."""
    weights = mixtral_weights()
    apart = made(tmp_path / "apart", weights, MIXTRAL)
    joined = {name: w for name, w in weights.items() if "block_sparse_moe" not in name}
    for il in range(2):
        old, new = f"model.layers.{il}.block_sparse_moe", f"model.layers.{il}.mlp"
        one = {p: [weights[f"{old}.experts.{n}.{p}.weight"] for n in range(3)]
               for p in ("w1", "w2", "w3")}  # fmt: skip
        joined[f"{new}.gate.weight"] = weights[f"{old}.gate.weight"]
        joined[f"{new}.experts.gate_up_proj"] = np.stack(
            [np.concatenate(pair) for pair in zip(one["w1"], one["w3"], strict=True)]
        )
        joined[f"{new}.experts.down_proj"] = np.stack(one["w2"])
    together = made(tmp_path / "joined", joined, MIXTRAL)
    assert apart.keys() == together.keys()
    assert all(np.array_equal(apart[name], together[name]) for name in apart)


def test_queries_and_keys_are_turned_within_their_heads_and_values_are_not(tmp_path: Path) -> None:
    weights = llama_weights()
    found = made(tmp_path / "m", weights, LLAMA)
    stored = weights["model.layers.0.self_attn.k_proj.weight"]
    # two heads of 16 rows: row 2n of a head was row n, row 2n + 1 was row n + 8
    wanted = np.stack([stored[h * 16 + half * 8 + n] for h in range(2) for n in range(8)
                       for half in (0, 1)])  # fmt: skip
    assert np.array_equal(found["blk.0.attn_k.weight"], wanted)
    value = weights["model.layers.0.self_attn.v_proj.weight"]
    assert np.array_equal(found["blk.0.attn_v.weight"], value)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_language_part_is_found_under_its_names(tmp_path: Path, prefix: str) -> None:
    plain = llama_weights()
    inner = {name.replace("model.", prefix, 1): w for name, w in plain.items()}
    inner = {
        name.replace("lm_head", "language_model.lm_head") if prefix[0] == "l" else name: w
        for name, w in inner.items()
    }
    inner["vision_tower.encoder.layers.0.self_attn.q_proj.bias"] = np.ones(8, np.float32)
    config = {"model_type": "llava", "text_config": LLAMA}
    one, other = made(tmp_path / "a", plain, LLAMA), made(tmp_path / "b", inner, config)
    assert all(np.array_equal(one[name], other[name]) for name in one | other)


def test_each_tensor_keeps_its_own_type_and_small_ones_have_32_bits(tmp_path: Path) -> None:
    weights = {name: w.astype(np.float16) for name, w in llama_weights().items()}
    weights["lm_head.weight"] = weights["lm_head.weight"].astype(np.float32)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].view(np.uint16)
    write_checkpoint(tmp_path / "m", weights)
    path = convert(tmp_path / "m", tmp_path / "made.gguf", Wants(), silent).path
    types = {tensor.name: tensor.type for tensor in read_header(path).tensors}
    assert types["output.weight"] == "F32"
    assert types["token_embd.weight"] == "BF16"
    assert types["blk.0.attn_q.weight"] == "F16"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_bf16_is_the_upper_half_of_a_float() -> None:
    bits = np.array([[0x3F80, 0xC000, 0x0001, 0x7F80]], np.uint16)
    assert as_floats(bits, "BF16").tolist() == [[1.0, -2.0, 2.0**-133, np.inf]]
    assert encoded(bits, "BF16", "BF16").tobytes() == bits.tobytes()


def test_a_bias_is_turned_like_the_rows_of_its_layer() -> None:
    rows = np.arange(32, dtype=np.float32)
    assert np.array_equal(in_pairs(rows[None], 16)[0], in_pairs(rows[:, None], 16)[:, 0])
