"""GGUF headers: read as the reference writes them, refused when they are not sound, never worse."""

from __future__ import annotations

import ctypes
import os
import random
import struct
import tracemalloc
from contextlib import closing, suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from okno.core.errors import ModelNotFound, ModelUnusable
from okno.inspect import gguf_cursor, source
from okno.inspect.gguf import GgufHeader, read_gguf, stored_type
from okno.inspect.gguf_types import FILE_TYPES, GGML_TYPES, bits_of
from okno.inspect.header import read_header
from okno.inspect.models import demo_model
from okno.inspect.source import LocalSource
from tests.inspect.gguf_bytes import LLAMA_DATA_BYTES, Header, llama

MUTATIONS = int(os.environ.get("OKNO_TEST_MUTATIONS", "2000"))
SOUND = llama().bytes(LLAMA_DATA_BYTES)


def read(path: Path) -> GgufHeader:
    with closing(LocalSource(path)) as opened:
        return read_gguf(opened)


def read_bytes(folder: Path, data: bytes, name: str = "model.gguf") -> GgufHeader:
    path = folder / name
    path.write_bytes(data)
    return read(path)


def test_a_file_by_the_reference_writer_is_read_whole(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_rope_freq_base(1e6)
    writer.add_array("llama.attention.head_count_kv", [2, 0, 2])
    writer.add_token_list(["a", "слово", ""])
    writer.add_tensor("token_embd.weight", np.zeros((3, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((5, 34), np.uint8), raw_dtype=8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read(path)
    assert found.values["general.architecture"] == "llama"
    assert found.values["llama.rope.freq_base"] == 1e6
    assert found.values["llama.attention.head_count_kv"] == (2, 0, 2)
    assert "tokenizer.ggml.tokens" not in found.values
    assert found.array_lengths["tokenizer.ggml.tokens"] == 3
    names = {tensor.name: tensor for tensor in found.tensors}
    assert names["token_embd.weight"].dimensions == (64, 3)
    assert names["blk.0.attn_q.weight"].type == "Q8_0"
    assert names["blk.0.attn_q.weight"].n_bytes == 5 * 34
    assert found.file_bytes == path.stat().st_size


def test_the_demo_reads_as_the_reference_reader_reads_it():
    path = demo_model().path
    found, reference = read(path), gguf.GGUFReader(path)
    assert [(t.name, t.dimensions, t.n_bytes) for t in found.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), int(t.n_bytes)) for t in reference.tensors
    ]
    assert found.data_offset == reference.data_offset
    assert stored_type(path) == "F16"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_and_byte_orders_say_the_same(tmp_path, order, version):
    found = read_bytes(tmp_path, llama(order, version).bytes(LLAMA_DATA_BYTES))
    assert (found.version, found.order) == (version, order)
    assert found.values["llama.context_length"] == 512
    assert [tensor.n_bytes for tensor in found.tensors] == [768, 204]


def test_the_types_are_those_of_the_library():
    from llama_cpp import _ggml

    library = _ggml.libggml
    for name, result in (
        ("ggml_type_size", ctypes.c_size_t),
        ("ggml_blck_size", ctypes.c_int64),
        ("ggml_type_name", ctypes.c_char_p),
    ):
        getattr(library, name).argtypes = [ctypes.c_int]
        getattr(library, name).restype = result
    known = {kind.number: (kind.name, kind.block_values, kind.block_bytes) for kind in GGML_TYPES}
    for number in range(43):  # GGML_TYPE_COUNT
        size, block = library.ggml_type_size(number), library.ggml_blck_size(number)
        if size:
            name = library.ggml_type_name(number).decode().upper()
            assert known.pop(number) == (name, block, size)
    assert known == {}


def test_the_names_of_file_types_are_those_of_the_reference():
    known = {value: name.split("_", 1)[1] for name, value in gguf.LlamaFileType.__members__.items()
             if name != "GUESSED"}  # fmt: skip
    assert {value: name for value, name in FILE_TYPES.items() if value in known} == known
    assert set(FILE_TYPES) - set(known) <= {41}  # Q2_0 is newer than the package


@pytest.mark.parametrize(
    ("name", "bits"), [("F16", 16), ("BF16", 16), ("Q8_0", 8), ("IQ2_XS", 2), ("GPTQ-4bit", 4)]
)
def test_the_width_is_that_of_one_weight(name, bits):
    assert bits_of(name) == bits


def split(folder: Path, count: int = 3, *, leave_out: int | None = None, **odd: int) -> Path:
    """A model in `count` parts, a tensor in each. Returns the first one's path."""
    for no in range(count):
        made = llama() if no == 0 else Header()
        made.tensors.clear()
        made.pair("split.no", 2, made.number("H", odd.get(f"no_{no}", no)))
        made.pair("split.count", 2, made.number("H", count))
        made.pair("split.tensors.count", 5, made.number("i", odd.get("tensors", count)))
        made.tensor(f"blk.{odd.get(f'name_{no}', no)}.weight", (32, 2))
        if no != leave_out:
            (folder / f"m-{no + 1:05d}-of-{count:05d}.gguf").write_bytes(made.bytes(256))
    return folder / f"m-00001-of-{count:05d}.gguf"


def test_a_split_model_is_one_whichever_part_is_given(tmp_path):
    first = split(tmp_path)
    found = read(first)
    assert [tensor.name for tensor in found.tensors] == [f"blk.{n}.weight" for n in range(3)]
    assert found.values["llama.block_count"] == 2
    assert found.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert read(tmp_path / "m-00003-of-00003.gguf") == found


def test_a_missing_part_is_named(tmp_path):
    first = split(tmp_path, leave_out=1)
    with pytest.raises(ModelNotFound, match=r"m-00002-of-00003\.gguf is missing"):
        read(first)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"no_1": 2}, "part 2"),
        ({"tensors": 9}, "where 9 are announced"),
        ({"name_1": 0}, "2 different tensors"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path, odd, said):
    with pytest.raises(ModelUnusable, match=said):
        read(split(tmp_path, **odd))


def test_absurd_numbers_of_parts_are_refused(tmp_path):
    path = tmp_path / "m-00001-of-99999.gguf"
    path.write_bytes(SOUND)
    with pytest.raises(ModelUnusable, match="99999 parts"):
        read(path)


BIG = 2**62


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "begins with"),
        (b"GGUF", "ends"),
        (b"GGML" + SOUND[4:], "b'GGML'"),
        (llama(version=1).bytes(2000), "version 1"),
        (llama(version=4).bytes(2000), "version 4"),
        (Header(n_pairs=BIG).bytes(64), "announces"),
        (Header(n_tensors=BIG).bytes(64), "announces"),
        (Header(n_tensors=10**6).bytes(10**8), "too many"),
        (Header().pair(b"", 4, bytes(4)).bytes(), "empty key"),
        (Header().u32("a", 1).u32("a", 2).bytes(), "'a' twice"),
        (Header().pair("a", 77, bytes(8)).bytes(), "unknown type 77"),
        (Header().array("a", 9, 1, bytes(64)).bytes(), "unknown type 9"),
        (Header().array("a", 8, BIG, b"").bytes(), "announces"),
        (Header().array("a", 10, BIG, b"").bytes(), "announces"),
        (Header().array("a", 8, 2, struct.pack("<QQ", 0, BIG)).bytes(), "announces"),
        (Header().pair("a", 8, struct.pack("<Q", BIG)).bytes(), "announces"),
        (Header().pair(b"k" * 70_000, 4, bytes(4)).bytes(), "70000 bytes"),
        (Header().u32("general.alignment", 24).bytes(), "alignment 24"),
        (Header().u32("general.alignment", 0).bytes(), "alignment 0"),
        (Header().string("general.alignment", "32").bytes(), "alignment '32'"),
        (Header().tensor("a", (32,)).tensor("a", (32,), offset=128).bytes(999), "'a' twice"),
        (Header().tensor("a" * 64, (32,)).bytes(999), "64 bytes"),
        (Header().tensor("a", (1, 1, 1, 1, 1)).bytes(999), "5 dimensions"),
        (Header().tensor("a", (), n_dimensions=2**31).bytes(999), "dimensions"),
        (Header().tensor("a", (2**32, 2**32)).bytes(999), "values"),
        (Header().tensor("a", (2**63, 0)).bytes(999), "values"),
        (Header().tensor("a", (32,), 4).bytes(999), "unknown type 4"),
        (Header().tensor("a", (32,), 99).bytes(999), "unknown type 99"),
        (Header().tensor("a", (33,), 2).bytes(999), "Q4_0 blocks"),
        (Header().tensor("a", (32,), offset=32).bytes(999), "at 32 of its data"),
        (Header().tensor("a", (32,)).tensor("b", (32,), offset=64).bytes(999), "instead of 128"),
        (llama().bytes(LLAMA_DATA_BYTES - 64), "cut short: 44 of"),
        (SOUND[:300], "ends"),
    ],
)
def test_what_is_not_sound_is_refused_with_what_is_wrong(tmp_path, data, said):
    with pytest.raises(ModelUnusable, match=said):
        read_bytes(tmp_path, data)


def test_long_lists_of_words_are_neither_kept_nor_walked_without_end(tmp_path, monkeypatch):
    data = Header().words("a", *["word"] * 3).words("b", *["word"] * 3).bytes()
    monkeypatch.setattr(gguf_cursor, "MAX_STRINGS", 6)
    assert read_bytes(tmp_path, data).array_lengths == {"a": 3, "b": 3}
    monkeypatch.setattr(gguf_cursor, "MAX_STRINGS", 5)
    with pytest.raises(ModelUnusable, match="more than 5 strings"):
        read_bytes(tmp_path, data)


def test_words_across_the_ends_of_blocks_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_cursor, "FIRST_BLOCK_BYTES", 16)
    monkeypatch.setattr(gguf_cursor, "LAST_BLOCK_BYTES", 48)
    words = [random.Random(1).randbytes(n % 50).hex() for n in range(200)]
    found = read_bytes(tmp_path, Header().words("a", *words).u32("b", 7).bytes())
    assert (found.array_lengths["a"], found.values["b"]) == (200, 7)


def test_a_header_that_never_ends_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MAX_READ_BYTES", 1 << 20)
    with pytest.raises(ModelUnusable, match="larger than 1 MiB"):
        read_bytes(tmp_path, Header().words("a", *["x" * 1000] * 5000).bytes())


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_cursor, "MAX_KEPT_BYTES", 10_000)
    made = Header()
    for n in range(20):
        made.string(f"k{n}", "x" * 1000)
    with pytest.raises(ModelUnusable, match="names and values"):
        read_bytes(tmp_path, made.bytes())


def test_long_texts_and_arrays_are_counted_only(tmp_path):
    made = Header().string("text", "x" * (1 << 21)).array("numbers", 4, 1025, bytes(4100))
    found = read_bytes(tmp_path, made.u32("after", 1).bytes())
    assert found.values == {"after": 1}
    assert found.array_lengths == {"numbers": 1025}


def test_a_file_that_is_not_there_or_no_file_is_said(tmp_path):
    with pytest.raises(ModelNotFound):
        read(tmp_path / "no.gguf")
    with pytest.raises(ModelUnusable, match="not a file"):
        read(tmp_path)
    assert stored_type(tmp_path / "no.gguf") is None


INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


@st.composite
def damages(draw: st.DrawFn) -> bytes:
    """SOUND with up to four pieces overwritten, cut out, doubled or cut off."""
    data = bytearray(SOUND)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["flip", "number", "cut", "double", "junk", "end"]))
        if how == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "number":
            data[place : place + 8] = struct.pack("<Q", draw(st.sampled_from(INTERESTING)))
        elif how == "cut":
            del data[place : place + draw(st.integers(1, 64))]
        elif how == "double":
            data[place:place] = data[place : place + draw(st.integers(1, 64))]
        elif how == "junk":
            data[place:place] = draw(st.binary(min_size=1, max_size=32))
        else:
            del data[place:]
    return bytes(data)


@settings(
    max_examples=MUTATIONS, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=damages())
@example(data=SOUND)
def test_damage_gives_a_typed_error_or_a_header_and_takes_little_memory(tmp_path, data):
    """10,000 in all: OKNO_TEST_MUTATIONS=10000."""
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with suppress(ModelUnusable):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_every_truncation_of_a_sound_file_is_refused(tmp_path):
    for length in range(len(SOUND) - 20):  # the last 20 bytes are padding
        with pytest.raises(ModelUnusable):
            read_bytes(tmp_path, SOUND[:length])
