"""Whatever is wrong with a checkpoint is said, with what to do, before or instead of a file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.convert.adapter import located
from okno.convert.finite import are_finite
from okno.convert.progress import silent
from okno.convert.ready import convert
from okno.convert.wants import Wants
from okno.core.errors import ModelNotFound, ModelUnusable, OknoError
from okno.inspect.header import read_header
from okno.inspect.models import find_local
from tests.convert.checkpoint_files import LLAMA, llama_weights, write_checkpoint
from tests.convert.small import small_checkpoint

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))


def told(folder: Path, error: type[OknoError] = ModelUnusable) -> str:
    """The message that converting `folder` gives; nothing is left of it."""
    out = folder.parent / "out" / "made.gguf"
    with pytest.raises(error) as raised:
        convert(folder, out, Wants(), silent)
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
    return raised.value.message


def with_config(folder: Path, **changes: Any) -> Path:
    return write_checkpoint(folder, llama_weights(), LLAMA | changes)


def test_a_shard_cut_short(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", n_shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    message = told(folder)
    assert "model-00002-of-00003.safetensors" in message
    assert "Get it again" in message


def test_a_shard_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    from okno.convert.checkpoint import Checkpoint

    folder = write_checkpoint(tmp_path / "m")
    checkpoint = Checkpoint(folder)
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(ModelUnusable, match=r"cut short while .*q_proj.* Get the file again"):
        checkpoint.read("model.layers.1.self_attn.q_proj.weight")


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", n_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing" in told(folder, ModelNotFound)


def test_a_missing_tensor(tmp_path: Path) -> None:
    weights = llama_weights()
    del weights["model.layers.1.mlp.up_proj.weight"]
    message = told(write_checkpoint(tmp_path / "m", weights))
    assert "no tensor for blk.1.ffn_up.weight" in message or "Some are missing" in message


def test_a_small_missing_tensor(tmp_path: Path) -> None:
    weights = llama_weights()
    del weights["model.layers.1.input_layernorm.weight"]
    message = told(write_checkpoint(tmp_path / "m", weights))
    assert "no tensor for blk.1.attn_norm.weight" in message
    assert "get the model again" in message


def test_a_tensor_of_a_type_that_weights_do_not_have(tmp_path: Path) -> None:
    weights = llama_weights()
    weights[Q] = weights[Q].astype(np.int32)
    message = told(write_checkpoint(tmp_path / "m", weights))
    assert f"{Q!r} as I32" in message
    assert "F32, F16 and BF16 can" in message


@pytest.mark.parametrize("shape", [(32, 128), (96, 64), (64, 65)])
def test_a_tensor_of_another_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    weights = llama_weights()
    weights[Q] = np.zeros(shape, np.float32)
    message = told(write_checkpoint(tmp_path / "m", weights))
    assert f"{Q!r} of shape {shape}" in message
    assert "(64, 64)" in message


def test_a_bias_of_no_dimension(tmp_path: Path) -> None:
    bias = {"model.layers.0.self_attn.q_proj.bias": np.zeros((), np.float32)}
    weights = llama_weights() | bias
    assert "self_attn.q_proj.bias' of shape ()" in told(write_checkpoint(tmp_path / "m", weights))


def test_a_tensor_nobody_knows(tmp_path: Path) -> None:
    weights = llama_weights() | {"model.layers.0.self_attn.sinks": np.ones(4, np.float32)}
    assert "'model.layers.0.self_attn.sinks' for which its family has no place" in told(
        write_checkpoint(tmp_path / "m", weights)
    )


def test_a_bias_the_engine_would_not_add(tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "qwen3"}
    weights = llama_weights() | {
        f"model.layers.{il}.self_attn.{part}_norm.weight": np.ones(16, np.float32)
        for il in range(2)
        for part in "qk"
    }
    weights["model.layers.0.self_attn.o_proj.bias"] = np.ones(64, np.float32)
    assert "o_proj.bias' for which" in told(write_checkpoint(tmp_path / "m", weights, config))


def test_a_bias_of_zeros_is_no_bias(tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "smollm3", "no_rope_layers": [1, 1]}
    weights = llama_weights() | {"model.layers.0.mlp.up_proj.bias": np.zeros(128, np.float32)}
    folder = write_checkpoint(tmp_path / "m", weights, config)
    assert convert(folder, tmp_path / "made.gguf", Wants(), silent).path.exists()


def test_a_second_output_layer_of_a_tied_model_is_left_out(tmp_path: Path) -> None:
    from okno.inspect.header import read_header

    made = convert(
        with_config(tmp_path / "m", tie_word_embeddings=True),
        tmp_path / "made.gguf",
        Wants(),
        silent,
    )
    assert "output.weight" not in {tensor.name for tensor in read_header(made.path).tensors}


def test_an_output_layer_that_is_missing_is_not_taken_for_tied(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", llama_weights(tied=True))
    assert "no lm_head.weight" in told(folder)


def test_no_tokenizer(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in told(folder, ModelNotFound)


def test_no_config(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").unlink()
    message = told(folder, ModelNotFound)
    assert "no config.json" in message
    assert "Get that file" in message


def test_an_unknown_family(tmp_path: Path) -> None:
    message = told(with_config(tmp_path / "m", model_type="rwkv9"))
    assert "'rwkv9'" in message
    assert "llama" in message
    assert "Give a GGUF file" in message


def test_a_family_that_is_planned_but_not_converted(tmp_path: Path) -> None:
    message = told(with_config(tmp_path / "m", model_type="granite"))
    assert "'granite'; these can be converted: " in message


@pytest.mark.parametrize("said", [{"quant_method": "fp8"}, {"load_in_4bit": True}])
def test_a_packing_that_is_planned_but_not_converted(tmp_path: Path, said: dict[str, Any]) -> None:
    message = told(with_config(tmp_path / "m", quantization_config=said))
    assert "cannot be converted yet; GPTQ and AWQ can" in message


@pytest.mark.parametrize(
    ("changes", "told_of"),
    [
        ({"hidden_act": "relu"}, "hidden_act = relu"),
        ({"rope_scaling": {"type": "mrope"}}, "'mrope'"),
        ({"rope_scaling": {"type": "linear"}}, "without factor"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "of 8 numbers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"model_type": "smollm3", "partial_rotary_factor": 3.0}, "partial_rotary_factor = 3.0"),
        ({"model_type": "smollm3", "partial_rotary_factor": 0.5}, None),
        ({"model_type": "smollm3"}, None),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "no_rope_layers = [1, 0]"),
        ({"model_type": "qwen2", "rope_scaling": {"type": "llama3", "factor": 8.0}}, "llama3"),
    ],
)
def test_what_the_engine_would_compute_otherwise(
    tmp_path: Path, changes: dict[str, Any], told_of: str | None
) -> None:
    folder = with_config(tmp_path / "m", **changes)
    if told_of is None:
        convert(folder, tmp_path / "made.gguf", Wants(), silent)
        return
    message = told(folder)
    assert told_of in message
    assert "Give a GGUF" in message or "get it again" in message


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        (["pytorch_model.bin", "config.json"], ModelUnusable, "pickle"),
        (["consolidated.00.pth"], ModelUnusable, "safetensors or GGUF"),
        (["config.json"], ModelNotFound, "has no weights"),
        ([], ModelNotFound, "has no weights"),
    ],
)
def test_folders_without_safetensors(
    tmp_path: Path, names: list[str], kind: type[OknoError], words: str
) -> None:
    (tmp_path / "m").mkdir()
    for name in names:
        (tmp_path / "m" / name).write_text("{}")
    assert words in told(tmp_path / "m", kind)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in told(tmp_path / "nowhere")


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelUnusable, match="cannot be written"):
        convert(write_checkpoint(tmp_path / "m"), tmp_path / "file" / "x.gguf", Wants(), silent)


WILD = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2**40), st.floats(allow_nan=False),
    st.text(max_size=5), st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers()),
)  # fmt: skip
KEYS = st.sampled_from([*LLAMA, "rope_scaling", "rope_parameters", "head_dim", "layer_types",
                        "quantization_config", "text_config", "sliding_window",
                        "num_local_experts", "attention_bias", "no_rope_layers"])  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sound") / "m")


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(KEYS, WILD, min_size=1, max_size=3))
def test_any_configuration_converts_or_is_refused(sound: Path, changes: dict[str, Any]) -> None:
    (sound / "config.json").write_text(json.dumps(LLAMA | changes))
    out = sound.parent / "made.gguf"
    refused = ""
    try:
        convert(sound, out, Wants(), silent)
    except OknoError as error:
        refused = error.message
    assert out.exists() != (len(refused) > 40)
    out.unlink(missing_ok=True)


FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "generation_config.json", "special_tokens_map.json", "quantize_config.json",
    "chat_template.jinja", "model.safetensors.index.json", "tokenizer.model",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = small_checkpoint(tmp_path / "Saiga")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelUnusable, match=f"{name} cannot be read: it is a pipe, not a file"):
        convert(folder, tmp_path / "made.gguf", Wants(), silent)
    assert not (tmp_path / "made.gguf").exists()


def test_a_pipe_or_a_device_as_a_model_or_an_adapter_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "device.gguf").symlink_to("/dev/zero")
    for name in ("pipe.gguf", "device.gguf"):
        with pytest.raises(ModelUnusable, match="neither a file nor a folder but a pipe"):
            find_local(str(tmp_path / name), tmp_path / "models")
        with pytest.raises(ModelUnusable, match="neither a file nor a folder but a pipe"):
            located(str(tmp_path / name), tmp_path / "models")
        with pytest.raises(ModelUnusable, match=r"is a (pipe|device), not a file"):
            read_header(tmp_path / name)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("wants", [Wants(), Wants(8), Wants(4)])
def test_a_weight_that_is_no_number_is_refused_with_the_tensors_name(
    tmp_path: Path, wrong: float, dtype: str, wants: Wants
) -> None:
    folder = small_checkpoint(tmp_path / "Saiga", "F32" if dtype == "F32" else "F16")
    data = bytearray((folder / "model.safetensors").read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    place = 8 + size + header[Q]["data_offsets"][0] + 4 * 1001
    bits = np.array(wrong, "<f4").tobytes()
    if dtype == "BF16":  # of all tensors: it is the same size
        text = data[8 : 8 + size].replace(b'"F16"', b'"BF16"')
        text = text.replace(b'"BF16", ', b'"BF16",')
        data[8 : 8 + size] = text.ljust(size)
        assert len(text) <= size
    half = {"F16": np.array(wrong, "<f2").tobytes(), "BF16": bits[2:], "F32": bits}[dtype]
    data[place : place + len(half)] = half
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelUnusable, match=f"{re.escape(Q)}.* no numbers .*: 1 of "):
        convert(folder, tmp_path / "made.gguf", wants, silent)
    assert not list(tmp_path.glob("made.gguf*"))


def test_the_largest_numbers_are_numbers() -> None:
    for dtype, kind in (("F16", np.float16), ("F32", np.float32), ("F64", np.float64)):
        most = np.finfo(kind).max
        assert are_finite(np.array([most, -most, 0, -0.0], kind), dtype)
        assert not are_finite(np.array([0, -np.inf], kind), dtype)
    assert are_finite(np.array([0x7F7F, 0xFF7F], np.uint16), "BF16")
    assert not are_finite(np.array([0, 0xFF80], np.uint16), "BF16")
    assert are_finite(np.array([], np.float16), "F16")
    assert are_finite(np.array([0x7FFF_FFFF], np.int32), "I32")
