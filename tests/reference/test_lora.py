"""Adapters as PEFT writes them: the engine computes what transformers with PEFT computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from peft import LoraConfig, get_peft_model

from okno.convert.adapter import adapter_file
from okno.convert.progress import silent
from okno.convert.ready import convert
from okno.convert.wants import Wants
from okno.core.adapter import Adapter
from okno.core.errors import ModelUnusable
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import WorkerOptions
from okno.inspect.header import read_header
from okno.schedule.step import Span, Step
from tests.reference.checkpoints import kl_divergence, make, reference_logits
from tests.reference.test_families import SLIDING, SMALL, tokens_of

MAX_KL = 1e-6  # gemma: the engine looks GELU up in a table of f16
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, {}),
    "llama, wide heads": ("llama", {"head_dim": 32}, {}),
    "llama, as many KV heads": ("llama", {"num_key_value_heads": 4}, {"r": 3}),
    "llama, by the root of the rank": ("llama", {}, {"use_rslora": True}),
    "llama, other ranks and strengths": (
        "llama", {},
        {"rank_pattern": {"q_proj": 8, "model.layers.1.mlp.up_proj": 2},
         "alpha_pattern": {"layers.0.self_attn.v_proj": 7, "down_proj": 5}},
    ),
    "llama, embeddings and output": (
        "llama", {}, {"target_modules": [*LINEAR, "embed_tokens", "lm_head"]}
    ),
    "llama, one layer": ("llama", {}, {"layers_to_transform": [1]}),
    "mistral": ("mistral", {"sliding_window": None}, {}),
    "mixtral, attention": (
        "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2},
        {"target_modules": ATTENTION},
    ),
    "qwen2": ("qwen2", {}, {}),
    "qwen3": ("qwen3", {"head_dim": 32}, {}),
    "gemma2": ("gemma2", SLIDING, {}),
    "gemma3": ("gemma3_text", SLIDING | {"num_hidden_layers": 7}, {}),
    "phi3": (
        "phi3", {"sliding_window": None},
        {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}, {}),
}  # fmt: skip


def with_adapter(model: Any, folder: Path, settings: dict[str, Any]) -> Any:
    """`model` with a random adapter, which is saved to `folder`."""
    torch.manual_seed(11)
    config = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "init_lora_weights": False}
    adapted = get_peft_model(model, LoraConfig(**(config | settings)))
    adapted.save_pretrained(str(folder))
    return adapted.eval()


def engine_logits(model: Path, tokens: list[int], *adapters: Adapter) -> Any:
    options = WorkerOptions(
        str(model), "m", batch_size=1, ctx=256, threads=1, kv_type="f32", flash_attention="off",
        adapters=adapters,
    )  # fmt: skip
    engine = LlamaCpp(options, lambda _fraction: None)
    return np.array(
        [
            engine.execute(Step((), (Span("", 0, at, np.array([t], np.int32), 1),)))[0].copy()
            for at, t in enumerate(tokens)
        ]
    )


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_with_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))
    kind, shape, settings = CASES[case]
    model = make(tmp_path / "model", kind, SMALL | shape)
    base = convert(tmp_path / "model", tmp_path / "base.gguf", Wants(), silent).path
    tokens = tokens_of(48)
    plain = reference_logits(model, tokens)
    wanted = reference_logits(with_adapter(model, tmp_path / "adapter", settings), tokens)
    adapter = adapter_file(Adapter("a", str(tmp_path / "adapter")), tmp_path, read_header(base))
    assert kl_divergence(plain, wanted) > 0.01, "an adapter too weak to show a mistake"
    assert kl_divergence(wanted, engine_logits(base, tokens, adapter)) <= MAX_KL
    off = Adapter("a", adapter.path, 0.0)
    assert kl_divergence(plain, engine_logits(base, tokens, off)) <= MAX_KL


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"use_dora": True}, "a DoRA"),
        ({"bias": "all"}, "trained with biases"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole layers"),
        ({"trainable_token_indices": [3]}, "replaces embeddings"),
        ({"init_lora_weights": "pissa"}, "begun by pissa"),
    ],
)
def test_what_cannot_be_applied_is_refused_as_peft_writes_it(
    tmp_path: Path, settings: dict[str, Any], why: str
) -> None:
    model = make(tmp_path / "model", "llama", SMALL)
    base = convert(tmp_path / "model", tmp_path / "base.gguf", Wants(), silent).path
    with_adapter(model, tmp_path / "adapter", {"init_lora_weights": True} | settings)
    with pytest.raises(ModelUnusable, match=why):
        adapter_file(Adapter("a", str(tmp_path / "adapter")), tmp_path, read_header(base))
