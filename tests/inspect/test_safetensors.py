"""Safetensors models: read by their headers and config.json, as the GGUF they will become."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okno.core.errors import ModelNotFound, ModelUnusable
from okno.inspect import safetensors
from okno.inspect.header import read_header
from tests.inspect.web import Site, serving

MUTATIONS = int(os.environ.get("OKNO_TEST_MUTATIONS", "2000")) // 4
WIDTHS = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "U8": 1}
Stored = tuple[str, tuple[int, ...]]  # its type and shape
Shapes = Mapping[str, Stored]

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "max_position_embeddings": 512, "rope_theta": 500000.0,
}  # fmt: skip


def llama_weights(dtype: str = "BF16", *, tied: bool = False) -> dict[str, Stored]:
    found = {"model.embed_tokens.weight": (100, 64), "model.norm.weight": (64,)}
    if not tied:
        found["lm_head.weight"] = (100, 64)
    for il in range(2):
        block = f"model.layers.{il}"
        found |= {
            f"{block}.input_layernorm.weight": (64,),
            f"{block}.post_attention_layernorm.weight": (64,),
            f"{block}.self_attn.q_proj.weight": (64, 64),
            f"{block}.self_attn.k_proj.weight": (32, 64),
            f"{block}.self_attn.v_proj.weight": (32, 64),
            f"{block}.self_attn.o_proj.weight": (64, 64),
            f"{block}.mlp.gate_proj.weight": (128, 64),
            f"{block}.mlp.up_proj.weight": (128, 64),
            f"{block}.mlp.down_proj.weight": (64, 128),
        }
    return {name: (dtype, shape) for name, shape in found.items()}


def packed(shapes: Shapes) -> dict[str, Stored]:
    """The same in GPTQ's form: 8 values of 4 bits in an int32."""
    found: dict[str, Stored] = {}
    for name, (_, shape) in shapes.items():
        if "_proj" not in name:
            found[name] = ("F16", shape)
            continue
        rows, columns = shape
        base = name.removesuffix(".weight")
        found[f"{base}.qweight"] = ("I32", (columns // 8, rows))
        found[f"{base}.qzeros"] = ("I32", (1, rows // 8))
        found[f"{base}.scales"] = ("F16", (1, rows))
    return found


def file_of(shapes: Shapes) -> bytes:
    entries, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = WIDTHS[dtype]
        for length in shape:
            size *= length
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(end)


def write(folder: Path, shapes: Shapes, config: Mapping[str, object] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or LLAMA))
    (folder / "model.safetensors").write_bytes(file_of(shapes))
    return folder


def test_a_checkpoint_is_the_gguf_it_will_become(tmp_path):
    found = read_header(write(tmp_path / "Saiga", llama_weights()))
    assert (found.name, found.source, found.architecture) == ("Saiga", "safetensors", "llama")
    assert (found.n_layer, found.n_vocab, found.ctx_train, found.file_type) == (2, 100, 512, "BF16")
    assert found.file_bytes == (tmp_path / "Saiga" / "model.safetensors").stat().st_size
    types = {tensor.name: tensor.type for tensor in found.tensors}
    assert types["blk.1.attn_q.weight"] == types["output.weight"] == "BF16"
    assert types["blk.1.attn_norm.weight"] == "F32"
    assert {(layer.k_width, layer.v_width) for layer in found.layers} == {(32, 32)}
    assert found.metadata["llama.rope.freq_base"] == 500000.0


def test_the_weights_decide_about_output_and_vocabulary(tmp_path):
    shapes = llama_weights("F16", tied=True)
    shapes["model.embed_tokens.weight"] = ("F16", (128, 64))  # padded
    found = read_header(write(tmp_path, shapes))
    assert found.n_vocab == 128
    assert "output.weight" not in {tensor.name for tensor in found.tensors}
    assert found.file_type == "F16"


def test_the_values_are_those_of_the_checkpoint(tmp_path):
    shapes = llama_weights()
    stored = sum(len(shape) and shape[0] * (shape[1] if len(shape) > 1 else 1)
                 for _, shape in shapes.values())  # fmt: skip
    assert read_header(write(tmp_path, shapes)).n_params == stored


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


@pytest.mark.parametrize(
    ("said", "file_type", "layer"),
    [
        (GPTQ, "GPTQ-4bit", "Q4_0"),
        (GPTQ | {"sym": False}, "GPTQ-4bit", "Q4_1"),
        (GPTQ | {"bits": 8}, "GPTQ-8bit", "Q8_0"),
        ({"quant_method": "awq", "bits": 4}, "AWQ-4bit", "Q4_1"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_gptq_and_awq_keep_their_bits(tmp_path, said, file_type, layer, beside):
    config = LLAMA if beside else LLAMA | {"quantization_config": said}
    folder = write(tmp_path, packed(llama_weights()), config)
    if beside:
        (folder / "quantize_config.json").write_text(json.dumps(said))
    found = read_header(folder)
    assert found.file_type == file_type
    types = {tensor.name: tensor.type for tensor in found.tensors}
    assert types["blk.0.ffn_down.weight"] == layer
    assert types["token_embd.weight"] == types["output.weight"] == "F16"
    assert types["blk.0.ffn_norm.weight"] == "F32"


@pytest.mark.parametrize(
    ("said", "file_type"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8-8bit"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "BNB-4bit"),
        ({"load_in_8bit": True}, "BNB-8bit"),
        ({"quant_method": "hqq", "bits": 4}, "HQQ-4bit"),
    ],
)
def test_methods_have_their_own_bits_or_say_them(tmp_path, said, file_type):
    config = LLAMA | {"quantization_config": said}
    assert read_header(write(tmp_path, llama_weights("U8"), config)).file_type == file_type


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"num_bits": 4}}},
        {"quant_method": "mxfp4"},
        {"quant_method": "quanto", "weights": "int4"},
        {"quant_method": "gptq", "group_size": 128},
    ],
)
def test_a_packing_whose_bits_are_unknown_is_refused_by_name(tmp_path, said):
    config = LLAMA | {"quantization_config": said}
    with pytest.raises(ModelUnusable, match=f"'{said['quant_method']}' and does not say in how"):
        read_header(write(tmp_path, llama_weights("U8"), config))


GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 100,
    "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
}  # fmt: skip


def test_experts_in_mxfp4_stay_so_and_nothing_else_is_packed(tmp_path):
    weights = {"model.embed_tokens.weight": ("BF16", (100, 64)),
               "lm_head.weight": ("BF16", (100, 64))}  # fmt: skip
    found = read_header(write(tmp_path, weights, GPT_OSS))
    assert (found.architecture, found.file_type) == ("gpt-oss", "MXFP4-4bit")
    types = {tensor.name: tensor.type for tensor in found.tensors}
    for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        assert types.pop(f"blk.1.{name}.weight") == "MXFP4"
        types.pop(f"blk.0.{name}.weight")
    assert set(types.values()) == {"F16", "F32"}
    assert types["blk.0.attn_q.weight"] == "F16"
    (size,) = {t.n_bytes for t in found.tensors if t.name == "blk.0.ffn_up_exps.weight"}
    assert size == 4 * 32 * 64 // 32 * 17  # 32 values in 17 bytes


def split(folder: Path, shapes: Shapes) -> Path:
    """The model in two files with an index."""
    names = list(shapes)
    parts = {"model-00001-of-00002.safetensors": names[:5],
             "model-00002-of-00002.safetensors": names[5:]}  # fmt: skip
    for file, kept in parts.items():
        (folder / file).write_bytes(file_of({name: shapes[name] for name in kept}))
    weight_map = {name: file for file, kept in parts.items() for name in kept}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def test_parts_are_found_by_the_index(tmp_path):
    whole = read_header(write(tmp_path / "one", llama_weights()))
    (tmp_path / "two").mkdir()
    found = read_header(split(tmp_path / "two", llama_weights()))
    assert found.tensors == whole.tensors
    (tmp_path / "two" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"model-00002-of-00002\.safetensors is missing"):
        read_header(tmp_path / "two")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", "x.bin"])
def test_an_index_leads_nowhere_else(tmp_path, name):
    split(tmp_path, llama_weights())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelUnusable, match="lists 1 files"):
        read_header(tmp_path)


OLD_GPTQ = "gptq_model-4bit-128g.safetensors"


@pytest.mark.parametrize(
    "name", [OLD_GPTQ, "a-00001-of-00001.safetensors", "state-of-art.safetensors"]
)
def test_the_only_weights_may_have_any_name(tmp_path, name):
    write(tmp_path, packed(llama_weights()))
    (tmp_path / "quantize_config.json").write_text(json.dumps(GPTQ))
    usual = read_header(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    assert read_header(tmp_path) == usual
    assert read_header(tmp_path / name) == usual


def test_of_several_weights_none_is_taken(tmp_path):
    write(tmp_path, llama_weights())
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(file_of(llama_weights()))
    with pytest.raises(ModelNotFound, match=r"model\.safetensors is missing"):
        read_header(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(file_of(llama_weights("F32")))
    assert read_header(tmp_path).file_type == "F32"


def test_one_part_of_several_is_no_model(tmp_path):
    write(tmp_path, llama_weights())
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelNotFound, match="is missing"):
        read_header(tmp_path)


def test_a_repository_with_oddly_named_weights_is_read(tmp_path, monkeypatch):
    write(tmp_path, packed(llama_weights()))
    (tmp_path / "model.safetensors").rename(tmp_path / OLD_GPTQ)
    (tmp_path / "quantize_config.json").write_text(json.dumps(GPTQ))
    names = [path.name for path in tmp_path.iterdir()]
    siblings = [{"rfilename": name} for name in [*names, "onnx/model.safetensors"]]
    with serving(Site()) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        site.files["/api/models/o/r/revision/main"] = json.dumps({"siblings": siblings}).encode()
        for name in names:
            site.files[f"/o/r/resolve/main/{name}"] = (tmp_path / name).read_bytes()
        found = read_header("o/r")
    assert (found.name, found.file_type) == ("r", "GPTQ-4bit")
    assert found.tensors == read_header(tmp_path).tensors


def test_a_fault_of_the_configuration_is_said_of_its_file(tmp_path):
    write(tmp_path, llama_weights(), LLAMA | {"hidden_size": None})
    with pytest.raises(ModelUnusable, match=r"config\.json does not say its hidden_size"):
        read_header(tmp_path / "model.safetensors")


def test_a_remote_repository_is_read_by_ranges(tmp_path):
    split(tmp_path, llama_weights())
    with serving(Site()) as site:
        for path in tmp_path.iterdir():
            site.files[f"/o/r/resolve/main/{path.name}"] = path.read_bytes()
        found = read_header(f"{site.url}/o/r/resolve/main/config.json")
    assert found.name == "r"
    assert found.tensors == read_header(tmp_path).tensors


def raw(header: object, data_bytes: int = 0) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + bytes(data_bytes)


def entry(shape: list[int], begin: int, end: int, dtype: str = "F16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "header of 0 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "header of 9223372036854775808 bytes"),
        (raw(b"[ "), "cannot be read"),
        (raw(b"[" * 100_000), "cannot be read"),
        (raw([]), "cannot be read"),
        (raw({"a": {"dtype": "F16"}}), "cannot be read"),
        (raw({"a": entry([2], 0, 4, "F99")}, 4), "F99"),
        (raw({"a": entry([-2], 0, 4)}, 4), "impossible shape"),
        (raw({"a": entry([1] * 9, 0, 2)}, 2), "impossible shape"),
        (raw({"a": entry([2], 0, 8)}, 8), "8 bytes"),
        (raw({"a": entry([2**40, 2**40], 0, 8)}, 8), "8 bytes"),
        (raw({"a": entry([2], 0, 4), "b": entry([2], 2, 6)}, 6), "at 2 and not 4"),
        (raw({"a": entry([2], 4, 8)}, 8), "at 4 and not 0"),
        (raw({"a": entry([2], 0, 4)}, 3), "3 bytes of data and not 4"),
        (raw({"a": entry([2], 0, 4)}, 9), "9 bytes of data and not 4"),
    ],
)
def test_what_is_not_sound_is_refused(tmp_path, data, said):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelUnusable, match=said):
        read_header(tmp_path)


def test_headers_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 100)
    with pytest.raises(ModelUnusable, match="announces a header"):
        read_header(write(tmp_path, llama_weights()))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "of the kind ''"),
        (LLAMA | {"model_type": "unheard_of"}, "'unheard_of'; from safetensors these are known"),
        (LLAMA | {"hidden_size": None}, "does not say its hidden_size"),
        (LLAMA | {"hidden_size": "64"}, "gives '64' for hidden_size"),
        (LLAMA | {"hidden_size": 2**40}, "for hidden_size"),
        (LLAMA | {"num_hidden_layers": 10**6}, "1000000 layers"),
        (LLAMA | {"num_hidden_layers": 4}, "Some are missing"),
        (LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 77}}, "77 bits"),
    ],
)
def test_configurations_that_cannot_be_are_refused(tmp_path, config, said):
    with pytest.raises(ModelUnusable, match=said):
        read_header(write(tmp_path, llama_weights(), config or {"x": 1}))


def test_the_language_part_of_a_larger_configuration_counts(tmp_path):
    inner = {key: value for key, value in LLAMA.items() if key != "model_type"}
    config = {"model_type": "llava", "text_config": {**inner, "model_type": "llama"}}
    assert read_header(write(tmp_path, llama_weights(), config)).n_layer == 2


SOUND = file_of(llama_weights("F16"))


@settings(
    max_examples=MUTATIONS, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(place=st.integers(0, len(SOUND) - 1), junk=st.binary(min_size=1, max_size=9),
       end=st.one_of(st.none(), st.integers(0, len(SOUND))))  # fmt: skip
def test_damage_gives_a_typed_error_or_a_header(tmp_path, place, junk, end):
    data = SOUND[:place] + junk + SOUND[place + len(junk) :]
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(data[:end])
    try:
        read_header(tmp_path)
    except ModelUnusable as error:
        said = error.message
    else:
        said = "sound"
    assert said


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


CHANGED = st.sampled_from(
    [*LLAMA, "text_config", "quantization_config", "num_experts", "kv_lora_rank", "head_dim",
     "sliding_window"]
)  # fmt: skip


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.dictionaries(CHANGED, VALUES, max_size=3))
def test_lying_configurations_give_a_typed_error_or_a_header(tmp_path, changes):
    write(tmp_path, llama_weights(), {**LLAMA, **changes})
    try:
        found = read_header(tmp_path)
    except ModelUnusable:
        return
    assert found.n_layer <= 512
