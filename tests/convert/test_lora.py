"""PEFT adapters become GGUF adapters: on the real engine they are what was trained, or refused."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.convert.adapter import adapter_file, located
from okno.convert.cache import converted_folder
from okno.convert.lora_config import LoraConfig, lora_config
from okno.core.adapter import Adapter
from okno.core.errors import DiskFull, ModelNotFound, ModelUnusable, OknoError
from okno.inspect.adapter import read_adapter
from okno.inspect.header import read_header
from tests.conftest import MakeModel
from tests.engines.test_adapters import alike, logits, opened
from tests.lora import (
    ALPHA,
    CONFIG,
    Factors,
    Floats,
    merged,
    peft_tensors,
    random_factors,
    write_adapter,
    write_peft,
)

NOWHERE = Path("/nonexistent")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def tiny(make_model: MakeModel) -> Path:
    return make_model("tiny")


def ready(folder: Path, base: Path) -> Adapter:
    return adapter_file(Adapter("mine", str(folder)), NOWHERE, read_header(base))


def half_of(name: str, values: dict[str, Floats]) -> str:
    return next(key for key in values if name in key)


@pytest.mark.parametrize("shape", ["tiny", "mha-tiny", "qwen3-tiny", "gemma3-tiny", "phi-tiny",
                                   "qwen3moe-tiny"])  # fmt: skip
def test_logits_are_those_of_the_merged_weights(
    make_model: MakeModel, tmp_path: Path, shape: str
) -> None:
    base = make_model(shape)
    factors = random_factors(base)
    folder = write_peft(tmp_path / "peft", peft_tensors(base, factors))
    found = logits(opened(base, ready(folder, base)))
    assert alike(found, logits(opened(merged(base, factors, tmp_path / "merged.gguf"))))


def test_the_factors_are_those_of_the_gguf_adapter_bit_by_bit(tiny: Path, tmp_path: Path) -> None:
    factors = random_factors(tiny)
    wanted = read_adapter(write_adapter(tmp_path / "wanted.gguf", factors))
    made = ready(write_peft(tmp_path / "peft", peft_tensors(tiny, factors)), tiny)
    found = read_adapter(Path(made.path))
    assert set(found.pairs) == set(wanted.pairs)
    assert (found.alpha, found.architecture, found.left_out) == (ALPHA, "llama", ())


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_16_bit_factors_keep_their_values(tiny: Path, tmp_path: Path, dtype: str) -> None:
    """Of eighths and halves nothing is rounded."""
    factors = {
        name: Factors(np.round(one.a * 8) / 8, np.round(one.b * 2) / 2)
        for name, one in random_factors(tiny, size=1.0).items()
    }
    folder = write_peft(tmp_path / "peft", peft_tensors(tiny, factors), dtype)
    found = logits(opened(tiny, ready(folder, tiny)))
    assert alike(found, logits(opened(merged(tiny, factors, tmp_path / "merged.gguf"))))


def test_the_embedding_is_adapted_by_rows(tiny: Path, tmp_path: Path) -> None:
    [(name, found)] = random_factors(tiny, wanted=lambda t: t.name.startswith("token")).items()
    # the weight is tokens x width; PEFT's A is rank x tokens, B is width x rank
    tensors = {
        "base_model.model.model.embed_tokens.lora_embedding_A": np.ascontiguousarray(found.b.T),
        "base_model.model.model.embed_tokens.lora_embedding_B": np.ascontiguousarray(found.a.T),
        "base_model.model.model.embed_tokens.base_layer.weight": np.zeros((512, 64), np.float32),
    }
    adapter = ready(write_peft(tmp_path / "peft", tensors), tiny)
    expected = logits(opened(merged(tiny, {name: found}, tmp_path / "merged.gguf")))
    assert alike(logits(opened(tiny, adapter)), expected)


def test_layers_of_other_ranks_and_strengths_are_each_scaled_right(
    tiny: Path, tmp_path: Path
) -> None:
    q = random_factors(tiny, rank=4, wanted=lambda t: "attn_q" in t.name)
    up = random_factors(tiny, rank=8, wanted=lambda t: "ffn_up" in t.name)
    folder = write_peft(
        tmp_path / "peft", peft_tensors(tiny, q | up),
        rank_pattern={"up_proj": 8}, alpha_pattern={"layers.1.mlp.up_proj": 3}, use_rslora=True,
    )  # fmt: skip

    def scaled(name: str, one: Factors) -> Factors:
        rank = one.b.shape[-1]
        alpha = 3 if name == "blk.1.ffn_up.weight" else ALPHA
        return Factors(one.a, one.b * np.float32(alpha / math.sqrt(rank) / (ALPHA / rank)))

    expected = {name: scaled(name, one) for name, one in (q | up).items()}
    found = logits(opened(tiny, ready(folder, tiny)))
    assert alike(found, logits(opened(merged(tiny, expected, tmp_path / "merged.gguf"))))


def test_an_expert_that_is_not_adapted_stays_as_it_is(
    make_model: MakeModel, tmp_path: Path
) -> None:
    base = make_model("qwen3moe-tiny")
    factors = random_factors(base, wanted=lambda t: "ffn_up_exps" in t.name)
    tensors = peft_tensors(base, factors)
    for name in [name for name in tensors if ".experts.3." in name]:
        del tensors[name]
    for one in factors.values():
        one.b[3] = 0
    found = logits(opened(base, ready(write_peft(tmp_path / "peft", tensors), base)))
    assert alike(found, logits(opened(merged(base, factors, tmp_path / "merged.gguf"))))


# Kept ----------------------------------------------------------------------------------------


def test_it_is_converted_once_and_again_when_it_changed(tiny: Path, tmp_path: Path) -> None:
    factors = random_factors(tiny)
    folder = write_peft(tmp_path / "peft", peft_tensors(tiny, factors))
    first = Path(ready(folder, tiny).path)
    made_ns = first.stat().st_mtime_ns
    assert Path(ready(folder, tiny).path).stat().st_mtime_ns == made_ns
    write_peft(folder, peft_tensors(tiny, factors), lora_alpha=2 * ALPHA)
    again = Path(ready(folder, tiny).path)
    assert (again, read_adapter(again).alpha) == (first, 2 * ALPHA)
    assert [path.name for path in converted_folder().glob("*.gguf*")] == [first.name]


def test_a_full_disk_leaves_nothing_behind(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_peft(tmp_path / "peft", peft_tensors(tiny, random_factors(tiny)))
    monkeypatch.setattr("okno.convert.disk.free_bytes_at", lambda _folder: 10)
    with pytest.raises(DiskFull, match="Converting the adapter peft"):
        ready(folder, tiny)
    assert list(converted_folder().glob("*.gguf*")) == []


def test_it_is_found_by_path_by_its_files_and_by_name(tiny: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    folder = write_peft(models / "mine", peft_tensors(tiny, random_factors(tiny)))
    file = write_adapter(models / "other.gguf", random_factors(tiny))
    for asked in (str(folder), str(folder / "adapter_config.json"), "mine"):
        assert located(asked, models) == folder
    for asked in (str(file), "other", "other.gguf"):
        assert located(asked, models) == file
    with pytest.raises(ModelNotFound, match=r"no adapter '\.\./models/mine'"):
        located("../models/mine", tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match=r"folder without adapter_config\.json"):
        located(str(models), models)


# Refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"peft_type": "LOHA"}, "of the kind 'LOHA'; only LoRA"),
        ({"use_dora": True}, "a DoRA"),
        ({"bias": "all"}, "trained with biases"),
        ({"lora_bias": True}, "trained with biases"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole layers"),
        ({"trainable_token_indices": [1]}, "replaces embeddings"),
        ({"layer_replication": [[0, 2]]}, "repeated layers"),
        ({"target_parameters": ["experts.down_proj"]}, "no layers of their own"),
        ({"alora_invocation_tokens": [5]}, "after certain tokens"),
        ({"use_qalora": True}, "QALoRA"),
        ({"init_lora_weights": "pissa"}, "begun by pissa"),
        ({"lora_alpha": "much"}, "lora_alpha = 'much', which is no number"),
        ({"lora_alpha": True}, "no number"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "only names of layers"),
    ],
)  # fmt: skip
def test_what_the_engine_cannot_apply_as_trained_is_refused(
    tiny: Path, tmp_path: Path, config: dict[str, object], why: str
) -> None:
    tensors = peft_tensors(tiny, random_factors(tiny))
    with pytest.raises(ModelUnusable, match=re.escape(why)):
        ready(write_peft(tmp_path / "peft", tensors, **config), tiny)


def test_what_asks_for_nothing_is_no_reason() -> None:
    off: dict[str, object] = {
        "use_dora": False, "modules_to_save": None, "trainable_token_indices": None,
        "layer_replication": None, "init_lora_weights": True, "loftq_config": {},
        "eva_config": None, "target_modules": ["q_proj"], "lora_dropout": 0.1,
    }  # fmt: skip
    assert lora_config(CONFIG | off, "x") == LoraConfig(ALPHA, {}, False, "")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "a DoRA (magnitudes)"),
        ("lm_head.weight", "a whole tensor"),
        ("model.layers.0.input_layernorm.weight", "a whole tensor"),
        ("model.layers.7.self_attn.q_proj.lora_A.weight", "has no tensor"),
        ("model.layers.0.self_attn.z_proj.lora_A.weight", "has no tensor"),
        ("model.layers.0.mlp.experts.9.up_proj.lora_A.weight", "only one of the two factors"),
    ],
)
def test_tensors_without_a_place_are_refused(
    tiny: Path, tmp_path: Path, name: str, why: str
) -> None:
    tensors = peft_tensors(tiny, random_factors(tiny))
    tensors[f"base_model.model.{name}"] = np.ones((4, 64), np.float32)
    with pytest.raises(ModelUnusable, match=re.escape(why)):
        ready(write_peft(tmp_path / "peft", tensors), tiny)


def test_a_missing_half_and_unlike_ranks_are_refused(tiny: Path, tmp_path: Path) -> None:
    tensors = peft_tensors(tiny, random_factors(tiny))
    first = half_of("q_proj.lora_A", tensors)
    with pytest.raises(ModelUnusable, match="ranks \\[3, 4\\]"):
        ready(write_peft(tmp_path / "peft", tensors | {first: tensors[first][:3]}), tiny)
    del tensors[first]
    with pytest.raises(ModelUnusable, match="only one of the two factors"):
        ready(write_peft(tmp_path / "peft", tensors), tiny)


def test_an_adapter_of_another_size_of_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    tensors = peft_tensors(tiny, random_factors(tiny))
    name = half_of("up_proj.lora_B", tensors)
    tensors[name] = np.ones((256, 4), np.float32)
    with pytest.raises(ModelUnusable, match=r"\(256, 4\) x \(4, 64\), and in .* \(128, 64\)"):
        ready(write_peft(tmp_path / "peft", tensors), tiny)


def test_tied_embeddings_cannot_be_adapted_on_one_side(
    make_model: MakeModel, tmp_path: Path
) -> None:
    base = make_model("lfm2-tiny")
    assert not any(tensor.name == "output.weight" for tensor in read_header(base).tensors)
    factors = random_factors(base, wanted=lambda t: t.name == "token_embd.weight")
    for name in ("token_embd.weight", "output.weight"):
        one = {name: next(iter(factors.values()))}
        file = write_adapter(tmp_path / "a.gguf", one, architecture="lfm2")
        with pytest.raises(ModelUnusable, match="embedding and output at once"):
            ready(file, base)


def test_weights_in_another_order_take_no_adapter(tiny: Path, tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "a.gguf", random_factors(tiny))
    base = read_header(tiny)
    reordered = replace(base, metadata=base.metadata | {"okno.reordered": True})
    with pytest.raises(ModelUnusable, match="whose order of rows was changed"):
        adapter_file(Adapter("a", str(file)), NOWHERE, reordered)


def test_pickles_are_not_opened(tiny: Path, tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "peft", peft_tensors(tiny, random_factors(tiny)))
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(ModelUnusable, match="a pickle, which runs code"):
        ready(folder, tiny)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(ModelNotFound, match="the weights of the adapter are missing"):
        ready(folder, tiny)


def test_a_model_of_another_kind_is_said(make_model: MakeModel, tmp_path: Path) -> None:
    base = make_model("granite-tiny")
    folder = write_peft(tmp_path / "peft", {"base_model.model.x.lora_A.weight": np.ones((4, 4))})
    with pytest.raises(
        ModelUnusable, match=r"granitehybrid model; adapters of .* can be converted"
    ):
        ready(folder, base)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_give_errors_that_can_be_said(
    make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    base = make_model("tiny")
    tensors = peft_tensors(base, random_factors(base, wanted=lambda t: "attn_q" in t.name))
    folder = write_peft(tmp_path_factory.mktemp("damaged"), tensors)
    name = data.draw(st.sampled_from(["adapter_config.json", "adapter_model.safetensors"]))
    whole = bytearray((folder / name).read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(whole[: data.draw(st.integers(at, len(whole)))])
    with suppress(OknoError):
        ready(folder, base)


def test_alphas_by_name_follow_peft() -> None:
    config = LoraConfig(8, {"up_proj": 2, "^model.layers.0.down_proj": 4}, False, "")
    assert config.scaling("model.layers.3.mlp.up_proj", 2) == 1
    assert config.scaling("model.layers.3.mlp.group_proj", 2) == 4
    assert config.scaling("model.layers.0.down_proj", 2) == 2
    assert config.scaling("x.model.layers.0.down_proj", 2) == 4


def test_json_of_the_config_is_read_as_it_is(tmp_path: Path, tiny: Path) -> None:
    folder = write_peft(tmp_path / "peft", peft_tensors(tiny, random_factors(tiny)))
    (folder / "adapter_config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelUnusable, match="not an object in JSON"):
        ready(folder, tiny)
