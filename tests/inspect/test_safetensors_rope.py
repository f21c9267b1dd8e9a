"""Rotary positions as config.json has them, in its old words and its new ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from okno.convert.rope_factors import llama3_factors, longrope_attention, yarn_attention
from okno.core.errors import ModelUnusable
from okno.inspect.safetensors_config import Config
from okno.inspect.safetensors_rope import Rope, factor_tensors, rope_of


def rope(head_dim: int = 16, **values: Any) -> Rope:
    return rope_of(Config("config.json", {"model_type": "llama", **values}), head_dim)


def test_without_a_word_positions_are_plain() -> None:
    found = rope(max_position_embeddings=4096)
    assert (found.kind, found.base, found.n_rot, found.ctx) == ("default", 10_000.0, 16, 4096)
    assert factor_tensors(found, "llama") == []


def test_old_and_new_words_mean_the_same() -> None:
    factors = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}  # fmt: skip
    old = rope(rope_theta=5e5, rope_scaling={"type": "llama3", **factors})
    middle = rope(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **factors})
    new = rope(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **factors})
    assert np.array_equal(llama3_factors(old), llama3_factors(new))
    assert np.array_equal(llama3_factors(middle), llama3_factors(new))
    assert old.base == middle.base == new.base == 5e5
    assert factor_tensors(old, "llama") == [("rope_freqs.weight", (8,))]


def test_the_factors_of_llama_3_2() -> None:
    """Published in its GGUF files (head of 64, base 500,000, factor 32): the first are 1, the last
    32, and between them they rise."""
    found = llama3_factors(
        rope(64, rope_theta=5e5, rope_scaling={
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        })
    )  # fmt: skip
    assert found[0] == 1.0
    assert found[-1] == 32.0
    assert (np.diff(found) >= 0).all()
    assert 1.0 < found[15] < 32.0


def test_each_kind_of_gemma_3s_layers_has_its_base() -> None:
    old = rope(model_type="gemma3_text", rope_scaling={"rope_type": "linear", "factor": 8.0})
    assert (old.kind, old.base, old.base_local) == ("linear", 1_000_000.0, 10_000.0)
    new = rope(rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    })  # fmt: skip
    assert (new.kind, new.base, new.base_local) == ("linear", 1_000_000.0, 10_000.0)


def test_phi_3_says_su_and_its_original_context_elsewhere() -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    found = rope(
        max_position_embeddings=131072, original_max_position_embeddings=4096,
        rope_scaling={"type": "su", **factors},
    )  # fmt: skip
    assert (found.kind, found.original_ctx) == ("longrope", 4096)
    assert longrope_attention(found) == pytest.approx(1.190238)
    names = [name for name, _ in factor_tensors(found, "phi3")]
    assert names == ["rope_factors_long.weight", "rope_factors_short.weight"]


def test_yarn_is_told_only_what_the_engine_does_not_apply_by_itself() -> None:
    plain = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    assert yarn_attention(rope(rope_scaling=plain)) == 1.0
    own = rope(rope_scaling=plain | {"attention_factor": 1.0})
    assert yarn_attention(own) == pytest.approx(1 / 1.1386294)


@pytest.mark.parametrize(
    "said",
    [
        {"rope_type": "yarn"},
        {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 7},
        {"rope_type": "linear", "factor": -1},
        {"rope_type": "spiral"},
        {"rope_type": "default", "rope_theta": 0},
        {"rope_type": "default", "partial_rotary_factor": 0.0},
    ],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ModelUnusable, match=r"config\.json"):
        rope(rope_parameters=said)
