"""Lists of texts in a header are read whole, or what is wrong is said."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.errors import ModelUnusable
from okno.inspect import gguf_cursor
from okno.inspect.gguf_texts import texts_of
from okno.inspect.source import LocalSource

MERGES = "tokenizer.ggml.merges"


def written(path: Path, merges: list[str]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array(MERGES, merges)
    writer.add_array("numbers", [1, 2, 3])
    writer.add_string("text", "alone")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def read(path: Path, key: str = MERGES) -> list[bytes]:
    with closing(LocalSource(path)) as source:
        return texts_of(source, key)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=60))
def test_texts_are_read_as_written(tmp_path_factory, merges: list[str]):
    path = written(tmp_path_factory.mktemp("texts") / "v.gguf", merges)
    assert read(path) == [merge.encode() for merge in merges]
    assert read(path, "tokenizer.ggml.tokens") == [b"a", b"b"]


def test_a_long_list_goes_beyond_one_block(tmp_path: Path):
    merges = [f"{n} {n + 1}" for n in range(300_000)]
    assert read(written(tmp_path / "v.gguf", merges)) == [merge.encode() for merge in merges]


@pytest.mark.parametrize("key", ["numbers", "text", "not there"])
def test_what_is_no_list_of_texts_has_none(key: str, tmp_path: Path):
    assert read(written(tmp_path / "v.gguf", ["a b"]), key) == []


def test_every_truncation_is_refused(tmp_path: Path):
    path = written(tmp_path / "v.gguf", ["a b", "ab c"])
    data = path.read_bytes()
    for length in range(24, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ModelUnusable, match="not a sound GGUF"):
            read(path)


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / "v.gguf", ["a" * 1000] * 100)
    monkeypatch.setattr(gguf_cursor, "MAX_KEPT_BYTES", 50_000)
    with pytest.raises(ModelUnusable, match="names and values"):
        read(path)
