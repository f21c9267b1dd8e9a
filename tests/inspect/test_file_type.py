"""The file type in a GGUF header: found wherever it stands, and never at the file's mercy."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okno.inspect import file_type as module
from okno.inspect.file_type import NAMES, FileType, file_type
from okno.inspect.models import demo_model


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def header(*pairs: bytes, count: int | None = None) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(pairs) if count is None else count) + b"".join(
        pairs
    )


def words(*texts: bytes, count: int | None = None) -> bytes:
    """An array of strings."""
    items = b"".join(struct.pack("<Q", len(text)) + text for text in texts)
    return struct.pack("<IQ", 8, len(texts) if count is None else count) + items


FILE_TYPE = pair(b"general.file_type", 4, struct.pack("<I", 15))
NAME = pair(b"general.name", 8, struct.pack("<Q", 3) + b"one")
TOKENS = pair(b"tokenizer.ggml.tokens", 9, words(b"a", b"bc", b""))
SCORES = pair(b"tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 3) + bytes(12))
FLAG = pair(b"tokenizer.ggml.add_bos_token", 7, b"\x01")


def read(folder: Path, data: bytes) -> FileType | None:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return file_type(path)


def test_it_is_found_behind_values_of_every_shape(tmp_path):
    assert read(tmp_path, header(NAME, TOKENS, SCORES, FLAG, FILE_TYPE)) == FileType("Q4_K_M")


def test_a_file_by_the_reference_writer_is_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_token_list(["a", "b"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert file_type(tmp_path / "model.gguf") == FileType("Q8_0")


def test_the_names_are_those_of_the_reference():
    known = {value: name.split("_", 1)[1] for name, value in gguf.LlamaFileType.__members__.items()
             if name != "GUESSED"}  # fmt: skip
    assert {known[value]: name for value, name in NAMES.items()} == {n: n for n in known.values()}


@pytest.mark.parametrize(("name", "bits"), [("F16", 16), ("BF16", 16), ("Q8_0", 8), ("IQ2_XS", 2)])
def test_the_width_is_that_of_one_weight(name, bits):
    assert FileType(name).bits == bits


def test_the_demo_says_what_it_is():
    assert file_type(demo_model().path) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"GGML" + header(FILE_TYPE)[4:],
        header(FILE_TYPE, count=2**63),
        header(FILE_TYPE)[:-1],
        header(struct.pack("<Q", 2**62) + b"x"),
        header(pair(b"k", 9, words(b"a", count=2**40)), FILE_TYPE),
        header(pair(b"k", 9, struct.pack("<IQ", 10, 2**61)), FILE_TYPE),
        header(pair(b"k", 9, struct.pack("<IQ", 9, 1)), FILE_TYPE),
        header(pair(b"k", 77, b""), FILE_TYPE),
        header(pair(b"k" * 70_000, 7, b"\x00"), FILE_TYPE),
        header(pair(b"general.file_type", 4, struct.pack("<I", 4711))),
        header(NAME),
    ],
)
def test_what_is_missing_unknown_or_broken_is_none(tmp_path, data):
    assert read(tmp_path, data) is None


def test_endless_lists_of_words_are_not_walked(tmp_path, monkeypatch):
    data = header(TOKENS, TOKENS, FILE_TYPE)
    monkeypatch.setattr(module, "MAX_STRINGS", 6)
    assert read(tmp_path, data) == FileType("Q4_K_M")
    monkeypatch.setattr(module, "MAX_STRINGS", 5)
    assert read(tmp_path, data) is None


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert file_type(tmp_path / "no.gguf") is None


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 200), junk=st.binary(min_size=1, max_size=9))
def test_no_damage_is_more_than_none(tmp_path, place, junk):
    data = header(NAME, TOKENS, SCORES, FLAG, FILE_TYPE)
    read(tmp_path, data[:place] + junk + data[place + len(junk) :])
