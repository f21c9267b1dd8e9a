"""What each layer keeps, per architecture, as the pinned llama.cpp decides; and odd headers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.core.errors import ModelUnusable
from okno.core.header import ModelHeader
from okno.inspect.gguf import Value
from okno.inspect.header import read_header
from okno.inspect.header_values import header_of_values
from okno.inspect.models import demo_model
from tests.conftest import MakeModel
from tests.inspect.gguf_bytes import LLAMA_DATA_BYTES, Header, llama


def header(architecture: str, **values: Value) -> ModelHeader:
    """A header of 8 blocks, 4 heads of 16 (2 for KV), with `values` on top (`__` is a dot)."""
    sizes: dict[str, Value] = {
        "context_length": 512, "embedding_length": 64, "block_count": 8,
        "feed_forward_length": 128, "attention.head_count": 4, "attention.head_count_kv": 2,
    }  # fmt: skip
    sizes |= {key.replace("__", "."): value for key, value in values.items()}
    named: Mapping[str, Value] = {f"{architecture}.{key}": value for key, value in sizes.items()}
    return header_of_values("m", "gguf", {"general.architecture": architecture} | named, (), 0)


def windows(architecture: str, **values: Value) -> list[int | None]:
    return [layer.window for layer in header(architecture, **values).layers]


def widths(architecture: str, **values: Value) -> list[tuple[int, int]]:
    return [(layer.k_width, layer.v_width) for layer in header(architecture, **values).layers]


def states(architecture: str, **values: Value) -> list[int]:
    return [layer.state_width for layer in header(architecture, **values).layers]


def test_the_demo_is_a_plain_llama():
    found = read_header(demo_model().path)
    assert (found.architecture, found.n_layer, found.n_embd) == ("llama", 5, 256)
    assert (found.n_vocab, found.ctx_train, found.file_type) == (2560, 1024, "F16")
    assert found.n_params == 4_426_496
    assert found.file_bytes == demo_model().size_bytes
    assert found.shares_prefixes
    assert {(layer.k_width, layer.v_width) for layer in found.layers} == {(256, 256)}


def test_heads_are_those_of_the_file_or_follow_from_the_width():
    assert widths("llama") == [(32, 32)] * 8
    assert widths("llama", attention__key_length=24) == [(48, 32)] * 8
    without_kv = header("llama", attention__head_count=(4,) * 8).metadata.copy()
    del without_kv["llama.attention.head_count_kv"]
    mha = header_of_values("m", "gguf", without_kv, (), 0)
    assert {layer.k_width for layer in mha.layers} == {64}
    by_layer = widths("deci", attention__head_count_kv=(2, 0, 4, 2, 2, 2, 2, 2))
    assert by_layer[:3] == [(32, 32), (0, 0), (64, 64)]


def test_latent_attention_keeps_keys_only():
    found = widths(
        "deepseek2", attention__head_count_kv=1, attention__key_length=576,
        attention__value_length=512, attention__key_length_mla=192,
        attention__value_length_mla=128, attention__kv_lora_rank=512,
    )  # fmt: skip
    assert found == [(576, 0)] * 8


def test_sparse_attention_keeps_its_indexer_too():
    mla: dict[str, Value] = {
        "attention__head_count_kv": 1, "attention__key_length": 576,
        "attention__key_length_mla": 192, "attention__value_length_mla": 128,
        "attention__indexer__key_length": 128,
    }  # fmt: skip
    assert widths("deepseek32", **mla) == [(704, 0)] * 8


def test_prediction_heads_keep_nothing():
    assert widths("glm4moe", nextn_predict_layers=1) == [(32, 32)] * 7 + [(0, 0)]


@pytest.mark.parametrize("kind", ["bert", "nomic-bert", "modern-bert", "gemma-embedding", "llada"])
def test_encoders_and_diffusion_have_no_cache(kind):
    assert widths(kind, attention__sliding_window=64) == [(0, 0)] * 8


N = None


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("llama", {"attention__sliding_window": 64}, [N] * 8),
        ("phi3", {"attention__sliding_window": 64}, [N] * 8),
        ("gemma2", {}, [4096, N] * 4),
        ("gemma2", {"attention__sliding_window": 64}, [64, N] * 4),
        ("gemma3", {}, [N] * 8),
        ("gemma3", {"attention__sliding_window": 64}, [64] * 5 + [N, 64, 64]),
        ("gemma3", {"attention__sliding_window": 64, "attention__sliding_window_pattern": 2},
         [64, N] * 4),
        ("gemma3n", {"attention__sliding_window": 64}, [64] * 4 + [N, 64, 64, 64]),
        ("gemma4", {"attention__sliding_window": 64,
                    "attention__sliding_window_pattern": (True, False) * 4}, [64, N] * 4),
        ("gpt-oss", {"attention__sliding_window": 128}, [128, N] * 4),
        ("cohere2", {"attention__sliding_window": 64}, [64, 64, 64, N] * 2),
        ("cohere2moe", {"attention__sliding_window": 64}, [N, 64, 64, 64] * 2),
        ("olmo2", {}, [N] * 8),
        ("olmo2", {"attention__sliding_window": 64}, [64, 64, 64, N] * 2),
        ("llama4", {}, [8192, 8192, 8192, N] * 2),
        ("llama4", {"attention__sliding_window": 0}, [N] * 8),
        ("llama4", {"attention__sliding_window": 64}, [8192, 8192, 8192, N] * 2),
        ("smallthinker", {"attention__sliding_window": 64}, [N, 4096, 4096, 4096] * 2),
        ("exaone4", {"attention__sliding_window": 64}, [N] * 8),
        ("deepseek4", {"attention__sliding_window": 64}, [64] * 8),
        ("gpt-oss", {"attention__sliding_window": 128, "nextn_predict_layers": 2},
         [128, N] * 3 + [N, N]),
        ("modern-bert", {"attention__sliding_window": 64}, [N, 64, 64] * 2 + [N, 64]),
    ],
)  # fmt: skip
def test_windows_follow_the_architecture(kind, values, expected):
    assert windows(kind, **values) == expected


def test_window_layers_may_have_heads_of_their_own():
    found = widths(
        "gemma4", attention__sliding_window=64, attention__key_length=32,
        attention__value_length=32, attention__key_length_swa=16, attention__value_length_swa=16,
        attention__sliding_window_pattern=(True, False) * 4, attention__shared_kv_layers=2,
    )  # fmt: skip
    assert found == [(32, 32), (64, 64)] * 3 + [(0, 0)] * 2


def test_gemma3n_shares_the_caches_of_its_first_20_layers():
    found = widths("gemma3n", block_count=30, attention__sliding_window=64)
    assert found == [(32, 32)] * 20 + [(0, 0)] * 10


MAMBA: dict[str, Value] = {
    "ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16,
    "ssm__time_step_rank": 8, "ssm__group_count": 2,
}  # fmt: skip
MAMBA2_STATE = 3 * (128 + 2 * 2 * 16) + 16 * 128
SOME = (0, 2, 0, 0, 0, 2, 0, 0)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("mamba2", MAMBA, [MAMBA2_STATE] * 8),
        ("mamba", MAMBA, [3 * 128 + 16 * 128] * 8),
        ("rwkv6", {"wkv__head_size": 16}, [64 * (2 + 16)] * 8),
        ("rwkv7", {"wkv__head_size": 16, "token_shift_count": 1}, [64 * (1 + 16)] * 8),
        ("granitehybrid", {**MAMBA, "attention__head_count_kv": SOME},
         [0 if heads else MAMBA2_STATE for heads in SOME]),
        ("jamba", {**MAMBA, "attention__head_count_kv": SOME},
         [0 if heads else 3 * 128 + 16 * 128 for heads in SOME]),
        ("falcon-h1", MAMBA, [MAMBA2_STATE] * 8),
        ("lfm2", {"shortconv__l_cache": 3, "attention__head_count_kv": SOME},
         [0 if heads else 2 * 64 for heads in SOME]),
        ("qwen3next", MAMBA, [MAMBA2_STATE, MAMBA2_STATE, MAMBA2_STATE, 0] * 2),
        ("qwen35", {**MAMBA, "full_attention_interval": 2}, [MAMBA2_STATE, 0] * 4),
        ("kimi-linear", {"ssm__conv_kernel": 4, "kda__head_dim": 16,
                         "attention__head_count_kv": SOME},
         [0 if heads else 3 * 3 * 4 * 16 + 16 * 16 * 4 for heads in SOME]),
        ("llama", MAMBA, [0] * 8),
    ],
)  # fmt: skip
def test_states_are_as_wide_as_the_engine_makes_them(kind, values, expected):
    assert states(kind, **values) == expected


def test_a_layer_has_attention_or_a_state_and_falcon_h1_both():
    found = header("granitehybrid", **MAMBA, attention__head_count_kv=SOME)
    assert [bool(layer.k_width) for layer in found.layers] == [bool(heads) for heads in SOME]
    assert found.is_recurrent
    both = header("falcon-h1", **MAMBA).layers
    assert all(layer.k_width == 32 and layer.state_width for layer in both)
    assert widths("mamba2", **MAMBA) == [(0, 0)] * 8


def test_a_block_of_nemotron_is_one_thing():
    found = header(
        "nemotron_h", **MAMBA, attention__head_count_kv=(0, 2, 0, 0, 0, 2, 0, 0),
        feed_forward_length=(0, 0, 128, 0, 128, 0, 0, 128),
    )  # fmt: skip
    kinds = ["M" if s.state_width else "*" if s.k_width else "-" for s in found.layers]
    assert "".join(kinds) == "M*-M-*M-"


def test_experts_and_embedding_models_are_known():
    found = header("qwen3moe", expert_count=128, expert_used_count=8)
    assert (found.n_expert, found.n_expert_used) == (128, 8)
    assert not found.is_embedding_model
    assert header("bert", pooling_type=1).is_embedding_model
    assert header("bert", attention__causal=False).is_embedding_model


def test_shape_models_of_every_family_are_read(make_model: MakeModel):
    gemma = read_header(make_model("gemma3-tiny"))
    assert [layer.window for layer in gemma.layers] == [64] * 5 + [None]
    mamba = read_header(make_model("mamba2-tiny"))
    assert mamba.is_recurrent
    assert not mamba.shares_prefixes
    assert read_header(make_model("bert-tiny")).is_embedding_model
    assert read_header(make_model("tiny", "Q4_0")).file_type == "Q4_0"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"block_count": 0}, "gives 0 for llama.block_count"),
        ({"block_count": 513}, "gives 513"),
        ({"block_count": 2**32 - 1}, "gives 4294967295"),
        ({"block_count": -1}, "gives -1"),
        ({"block_count": "8"}, "gives '8'"),
        ({"attention__head_count": (4, 4)}, "gives 2 for llama.attention.head_count"),
        ({"attention__head_count": 1.5}, "gives 1.5"),
        ({"embedding_length": 2**40}, "gives 1099511627776"),
    ],
)
def test_impossible_values_are_refused_by_name(values, said):
    with pytest.raises(ModelUnusable, match=said):
        header("llama", **values)


def test_what_is_no_model_is_said(tmp_path):
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(Header().string("general.architecture", "clip").bytes())
    with pytest.raises(ModelUnusable, match="an addition to one"):
        read_header(path)
    path.write_bytes(Header().string("general.name", "x").bytes())
    with pytest.raises(ModelUnusable, match="names no architecture"):
        read_header(path)
    path.write_bytes(Header().string("general.architecture", "llama").bytes())
    with pytest.raises(ModelUnusable, match=r"does not say its llama\.block_count"):
        read_header(path)


def test_the_name_is_that_of_the_file_without_its_part(tmp_path):
    path = tmp_path / "Saiga-Q4.gguf"
    path.write_bytes(llama().bytes(LLAMA_DATA_BYTES))
    assert read_header(path).name == "Saiga-Q4"
    assert read_header(str(path)).file_type == "Q4_K_M"


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 8, 64, 512, 2**31, 2**32, 2**63, -1]), st.floats(), st.booleans(),
    st.text(max_size=3), st.lists(st.integers(-1, 9), max_size=9).map(tuple),
)  # fmt: skip
KINDS = st.sampled_from(
    ["llama", "gemma3", "gemma4", "llama4", "deepseek2", "deepseek32", "mamba2", "jamba", "rwkv7",
     "lfm2", "nemotron_h", "qwen3next", "kimi-linear", "minimax-01", "bert", "nanbeige", ""]
)  # fmt: skip
KEYS = st.sampled_from(
    ["block_count", "embedding_length", "context_length", "attention__head_count",
     "attention__head_count_kv", "attention__key_length", "attention__sliding_window",
     "attention__sliding_window_pattern", "ssm__conv_kernel", "ssm__state_size",
     "ssm__inner_size", "ssm__group_count", "full_attention_interval", "shortconv__l_cache",
     "wkv__head_size", "kda__head_dim", "feed_forward_length", "nextn_predict_layers",
     "attention__indexer__types", "attention__recurrent_layers", "num_loops", "expert_used_count",
     "pooling_type", "attention__shared_kv_layers", "vocab_size"]
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(kind=KINDS, values=st.dictionaries(KEYS, NUMBERS, max_size=5))
def test_lying_values_give_a_header_or_a_typed_error(kind, values):
    try:
        found = header(kind, **values)
    except ModelUnusable:
        return
    assert 0 < len(found.layers) <= 512 * 64
    assert all(layer.k_width >= 0 and layer.state_width >= 0 for layer in found.layers)
