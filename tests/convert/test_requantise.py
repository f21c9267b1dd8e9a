"""--load-in-8bit and --load-in-4bit of a GGUF file: what llama-quantize makes, once, and kept."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from okno.bench.raw import RawOptions, Row, open_raw
from okno.bench.shapes import PRESETS, write_gguf
from okno.bench.tensors import Shape
from okno.convert.progress import silent
from okno.convert.quantise import dequantise_rows, quantise_rows
from okno.convert.requantise import NUMBERS, requantised
from okno.convert.wants import Wants
from okno.core.errors import DiskFull, ModelUnusable
from okno.engines.llama_model import start_backend
from okno.inspect.gguf import stored_type
from okno.inspect.header import read_header
from okno.inspect.listing import LocalModel

SHAPES = {
    "llama": Shape("wide", "llama", n_embd=256, n_layer=4, n_head=4, n_head_kv=2, head_dim=64,
                   n_ff=512, n_vocab=512, ctx_train=256, tied=False),
    "tied": Shape("tied", "llama", n_embd=256, n_layer=2, n_head=4, n_head_kv=4, head_dim=64,
                  n_ff=512, n_vocab=512, ctx_train=256),
    "experts": PRESETS["qwen3moe-tiny"],
    "narrow": PRESETS["tiny"],
}  # fmt: skip
WANTED = {"Q8_0": Wants(8), "Q4_K_M": Wants(4), "Q4_0": Wants(4, "Q4_0")}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))


def model(path: Path, shape: str = "llama", file_type: str = "F16") -> LocalModel:
    size = write_gguf(SHAPES[shape], path, file_type)  # type: ignore[arg-type]
    return LocalModel(path.stem, path, size)


def by_llama_quantize(source: Path, target: Path, file_type: str) -> Path:
    start_backend()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = NUMBERS[file_type], 1, True
    names = str(source).encode(), str(target).encode()
    assert lib.llama_model_quantize(*names, ctypes.byref(params)) == 0
    return target


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def check_same(found: Path, wanted: Path) -> None:
    """The same bytes, but that Q8_0 may round a number half way between two the other way
    (convert/quantise.py, BY_CPU)."""
    one, other = contents(found), contents(wanted)
    assert {name: kind for name, (kind, _) in one.items()} == {
        name: kind for name, (kind, _) in other.items()
    }
    for name, (kind, data) in one.items():
        if kind != "Q8_0":
            assert data == other[name][1], name
            continue
        a, b = (np.frombuffer(raw, np.int8).reshape(-1, 34) for raw in (data, other[name][1]))
        np.testing.assert_array_equal(a[:, :2], b[:, :2], name)
        differing = np.abs(a[:, 2:].astype(int) - b[:, 2:])
        assert differing.max() <= 1
        assert differing.mean() < 0.001


@pytest.mark.parametrize("file_type", WANTED)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_byte_is_what_llama_quantize_writes(
    tmp_path: Path, shape: str, file_type: str
) -> None:
    made = requantised(model(tmp_path / "m.gguf", shape), WANTED[file_type], silent)
    wanted = by_llama_quantize(tmp_path / "m.gguf", tmp_path / "wanted.gguf", file_type)
    check_same(made.path, wanted)
    assert stored_type(made.path) == file_type


@pytest.mark.parametrize("stored", ["F32", "BF16"])
def test_other_floats_are_quantised_as_well(tmp_path: Path, stored: str) -> None:
    made = requantised(model(tmp_path / "m.gguf", file_type=stored), WANTED["Q4_K_M"], silent)
    wanted = by_llama_quantize(tmp_path / "m.gguf", tmp_path / "wanted.gguf", "Q4_K_M")
    check_same(made.path, wanted)


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q4_0"])
@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits_made_of_eight_are_what_llama_quantize_writes(
    tmp_path: Path, shape: str, file_type: str
) -> None:
    made = requantised(model(tmp_path / "m.gguf", shape, "Q8_0"), WANTED[file_type], silent)
    check_same(made.path, by_llama_quantize(tmp_path / "m.gguf", tmp_path / "w.gguf", file_type))


def test_four_bits_made_of_eight_are_as_good_as_of_sixteen() -> None:
    """The reason for okno/inspect/fewer_bits.py: the error of 4 bits hardly grows."""
    values = np.random.default_rng(1).standard_normal((64, 1024)).astype(np.float32)
    eight = dequantise_rows(quantise_rows(values, "Q8_0"), "Q8_0", 1024)
    lost_by_eight = np.linalg.norm(eight - values)
    for kind, grows in (("Q4_K", 1.005), ("Q4_0", 1.005), ("Q6_K", 1.06)):
        direct, twice = (
            np.linalg.norm(dequantise_rows(quantise_rows(x, kind), kind, 1024) - values)
            for x in (values, eight)
        )
        assert twice < grows * direct
        assert kind == "Q6_K" or lost_by_eight < direct / 13


def test_the_header_keeps_its_vocabulary_and_template(tmp_path: Path) -> None:
    given = model(tmp_path / "m.gguf")
    made = requantised(given, Wants(8), silent)
    before, after = gguf.GGUFReader(given.path), gguf.GGUFReader(made.path)
    own = {"general.file_type", "general.quantization_version", "okno.provenance"}
    for key, field in before.fields.items():
        if not key.startswith("GGUF.") and key not in own:
            assert after.fields[key].contents() == field.contents(), key
    assert "tokenizer.chat_template" in after.fields


def test_the_engine_serves_it(tmp_path: Path) -> None:
    made = requantised(model(tmp_path / "m.gguf"), Wants(8), silent)
    with open_raw(made.path, RawOptions(ctx=64, threads=1)) as engine:
        engine.decode([Row(5, 0)])
        assert np.isfinite(engine.logits(0)).all()


def test_it_is_made_once_and_again_when_the_source_changed(tmp_path: Path) -> None:
    given = model(tmp_path / "m.gguf")
    told: list[str] = []

    def watched(stage: str, done: int, total: int, left: float | None) -> None:
        told.append(stage)

    first = requantised(given, Wants(8), watched).path
    n_told = len(told)
    assert n_told > 0
    assert requantised(given, Wants(8), watched).path == first
    assert len(told) == n_told
    write_gguf(SHAPES["llama"], given.path, "F16", seed=1)
    assert requantised(given, Wants(8), watched).path == first
    assert len(told) > n_told


def test_8_and_4_bits_of_one_model_are_kept_beside_each_other(tmp_path: Path) -> None:
    given = model(tmp_path / "m.gguf")
    paths = {requantised(given, wants, silent).path for wants in WANTED.values()}
    assert len(paths) == 3
    assert all(path.exists() for path in paths)


def test_a_model_of_several_files_becomes_one(tmp_path: Path) -> None:
    whole = model(tmp_path / "m.gguf")
    first = split(whole.path, tmp_path / "parts")
    made = requantised(LocalModel("parts", first, 0), Wants(8), silent)
    wanted = by_llama_quantize(whole.path, tmp_path / "wanted.gguf", "Q8_0")
    check_same(made.path, wanted)
    assert not any(key.startswith("split.") for key in read_header(made.path).metadata)


def split(path: Path, folder: Path) -> Path:
    """The model in files of ten tensors; the first of them."""
    folder.mkdir()
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=10)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*-00001-of-*.gguf"))[0]


def test_what_stops_it_leaves_nothing(tmp_path: Path) -> None:
    given = model(tmp_path / "m.gguf")

    def stopping(stage: str, done: int, total: int, left: float | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        requantised(given, Wants(8), stopping)
    assert list((tmp_path / "data" / "converted").glob("*.gguf*")) == []


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    given = model(tmp_path / "m.gguf")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFull):
        requantised(given, Wants(8), silent)


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    given = model(tmp_path / "m.gguf")
    data = given.path.read_bytes()
    given.path.write_bytes(data[: len(data) - 1000])
    with pytest.raises(ModelUnusable, match="cut short"):
        requantised(given, Wants(8), silent)
