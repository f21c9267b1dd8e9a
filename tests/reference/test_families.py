"""Converted models compute what transformers computes, family by family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokenizers import Tokenizer

from okno.bench.raw import RawEngine, RawOptions, Row, open_raw
from okno.convert.progress import silent
from okno.convert.ready import convert
from okno.convert.wants import Wants
from okno.inspect.header import read_header
from tests.reference.checkpoints import (
    N_VOCAB,
    kl_divergence,
    make,
    make_with_images,
    mean_kl,
    reference_logits,
)

MAX_KL = 1e-5
N_TOKENS = 96
SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
SLIDING = {"sliding_window": 32, "head_dim": 16, "query_pre_attn_scalar": 16}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100_000.0},
}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}


def longrope(half: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope", "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.1 * n for n in range(half)],
        "long_factor": [1.0 + 0.5 * n for n in range(half)],
        "original_max_position_embeddings": 64,
    }  # fmt: skip


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, as many KV heads": ("llama", {"num_key_value_heads": 4}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("llama", {"head_dim": 32}),
    "llama, llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama, yarn": ("llama", {"rope_parameters": YARN}),
    "llama, yarn with its own attention": (
        "llama", {"rope_parameters": YARN | {"attention_factor": 1.3, "beta_fast": 16.0}},
    ),
    "llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", {}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2_moe": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 64}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3_moe": ("qwen3_moe", {**EXPERTS, "norm_topk_prob": True, "head_dim": 32}),
    "gemma2": ("gemma2", SLIDING),
    "gemma3": ("gemma3_text", SLIDING | {"num_hidden_layers": 7}),
    "gemma3, stretched": ("gemma3_text", SLIDING | {
        "num_hidden_layers": 4, "rope_parameters": GEMMA3_ROPE,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3, a part of each head": ("phi3", {
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
        },
    }),
    "phi3, longrope": ("phi3", {"rope_parameters": longrope(8)}),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
}  # fmt: skip


def tokens_of(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(3).integers(1, 340, count)]


def engine_logits(engine: RawEngine, tokens: list[int]) -> Any:
    engine.decode([Row(token, position) for position, token in enumerate(tokens)])
    return np.array([engine.logits(row).copy() for row in range(len(tokens))])


OPTIONS = RawOptions(ctx=256, step_tokens=256, threads=1, kv_f32=True, flash_attention="off")


def converted(folder: Path, **wants: int) -> Path:
    return convert(folder, folder / "made.gguf", Wants(**wants), silent).path


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    kind, settings = CASES[case]
    model = make(tmp_path, kind, SMALL | settings)
    tokens = tokens_of(N_TOKENS)
    wanted = reference_logits(model, tokens)
    with open_raw(converted(tmp_path), OPTIONS) as engine:
        found = engine_logits(engine, tokens)
    assert wanted.std() > 0.3, "logits too flat to show a mistake"
    assert kl_divergence(wanted, found) <= MAX_KL / 10


@pytest.mark.parametrize("case", CASES)
def test_logits_of_16_bits_differ_by_the_engines_rounding_alone(tmp_path: Path, case: str) -> None:
    """It rounds what it multiplies F16 weights with to F16; the weights are equal."""
    kind, settings = CASES[case]
    model = make(tmp_path / "f16", kind, SMALL | settings, "float16")
    tokens = tokens_of(N_TOKENS)
    wanted = reference_logits(model, tokens)
    path = converted(tmp_path / "f16")
    with open_raw(path, OPTIONS) as engine:
        assert mean_kl(wanted, engine_logits(engine, tokens)) <= MAX_KL
    make(tmp_path / "f32", kind, SMALL | settings, "float32", rounded_to="float16")
    assert stored_values(path) == stored_values(converted(tmp_path / "f32"))


@pytest.mark.parametrize("case", CASES)
def test_the_header_is_the_one_predicted_from_the_checkpoint(tmp_path: Path, case: str) -> None:
    kind, settings = CASES[case]
    make(tmp_path, kind, SMALL | settings, "bfloat16")
    predicted = read_header(tmp_path)
    made = read_header(converted(tmp_path))
    assert set(made.tensors) == set(predicted.tensors)
    assert made.layers == predicted.layers
    for field in ("architecture", "n_layer", "n_embd", "n_vocab", "ctx_train", "n_expert"):
        assert getattr(made, field) == getattr(predicted, field)
    assert made.n_vocab == N_VOCAB


@pytest.mark.parametrize("case", CASES)
def test_bf16_is_carried_over_bit_by_bit(tmp_path: Path, case: str) -> None:
    """The engine rounds what it multiplies BF16 weights with to BF16, so logits are compared with
    a file of the same weights in 32 bits."""
    kind, settings = CASES[case]
    model = make(tmp_path / "bf16", kind, SMALL | settings, "bfloat16")
    path = converted(tmp_path / "bf16")
    assert read_header(path).file_type == "BF16"
    make(tmp_path / "f32", kind, SMALL | settings, "float32", rounded_to="bfloat16")
    tokens = tokens_of(N_TOKENS)
    with open_raw(converted(tmp_path / "f32"), OPTIONS) as engine:
        assert kl_divergence(reference_logits(model, tokens), engine_logits(engine, tokens)) <= (
            MAX_KL
        )
    assert stored_values(path) == stored_values(tmp_path / "f32" / "made.gguf")


def stored_values(path: Path) -> dict[str, bytes]:
    """Every tensor of the file in 32 bits."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = np.ascontiguousarray(values, np.float32).tobytes()
    return found


@pytest.mark.parametrize("case", CASES)
def test_greedy_text_is_that_of_transformers(tmp_path: Path, case: str) -> None:
    kind, settings = CASES[case]
    model = make(tmp_path, kind, SMALL | settings)
    wanted = tokens_of(40)
    for _ in range(24):
        wanted.append(int(reference_logits(model, wanted)[-1].argmax()))
    found = wanted[:40]
    with open_raw(converted(tmp_path), OPTIONS) as engine:
        engine.prefill(found)
        while len(found) < len(wanted):
            found.append(int(engine.logits().argmax()))
            engine.decode([Row(found[-1], len(found) - 1)])
        text = b"".join(engine.piece(token) for token in found[40:])
    assert found == wanted
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert text.decode(errors="replace") == tokenizer.decode(wanted[40:])


def test_a_sharded_checkpoint_gives_the_same_file(tmp_path: Path) -> None:
    make(tmp_path / "one", "llama", SMALL)
    make(tmp_path / "many", "llama", SMALL, shard="100KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert stored_values(converted(tmp_path / "one")) == stored_values(converted(tmp_path / "many"))


def test_longrope_takes_its_short_factors_in_a_short_window(tmp_path: Path) -> None:
    model = make(tmp_path, "phi3", SMALL | {"rope_parameters": longrope(8)})
    tokens = tokens_of(60)
    options = replace(OPTIONS, ctx=64)  # the original context: the engine goes by its window
    with open_raw(converted(tmp_path), options) as engine:
        found = engine_logits(engine, tokens)
    assert kl_divergence(reference_logits(model, tokens), found) <= MAX_KL


@pytest.mark.parametrize("kind", ["mistral", "phi3"])
def test_a_window_the_engine_lacks_is_said_and_does_not_matter_within_it(
    tmp_path: Path, kind: str
) -> None:
    model = make(tmp_path, kind, SMALL | {"sliding_window": 48})
    made = convert(tmp_path, tmp_path / "made.gguf", Wants(), silent)
    assert any("the last 48 tokens" in note for note in made.notes)
    tokens = tokens_of(N_TOKENS)
    wanted = reference_logits(model, tokens)
    with open_raw(made.path, OPTIONS) as engine:
        found = engine_logits(engine, tokens)
    assert kl_divergence(wanted[:48], found[:48]) <= MAX_KL
    assert kl_divergence(wanted, found) > MAX_KL  # so the note is needed


def test_the_language_part_of_an_image_model_is_taken(tmp_path: Path) -> None:
    text = SMALL | SLIDING | {"vocab_size": N_VOCAB, "model_type": "gemma3_text"}
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    model = make_with_images(tmp_path, text, vision)
    tokens = tokens_of(N_TOKENS)
    with open_raw(converted(tmp_path), OPTIONS) as engine:
        found = engine_logits(engine, tokens)
    assert kl_divergence(reference_logits(model, tokens), found) <= MAX_KL
