"""Sparse files: a header and a hole; the engine takes them for the model."""

from __future__ import annotations

import pytest

from okno.core.errors import ModelUnusable
from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.window import Window
from okno.engines.dry_run import DryRun
from okno.inspect.catalog import CatalogModel, catalog
from okno.inspect.header import header_of_catalog, read_header
from okno.inspect.sparse import write_header_gguf, write_sparse
from tests.conftest import MakeModel
from tests.inspect.test_gguf import split
from tests.inspect.test_source import LARGE
from tests.inspect.web import Site, serving

LOAD = Load(Window(2, 2048, 4096))
STATE_BYTES = 4


def families() -> list[CatalogModel]:
    """One model of each kind of shape the catalog can synthesise."""
    found: dict[tuple[object, ...], CatalogModel] = {}
    for model in sorted(catalog(), key=lambda model: model.total_params or 1 << 60):
        shape = model.shape
        kind = (shape.architecture, shape.moe is not None)
        try:
            header_of_catalog(model, "F16")
        except ModelUnusable:
            continue
        found.setdefault(kind, model)
    return list(found.values())


FAMILIES = families()


def twice(header: ModelHeader) -> int:
    """Bytes of a tied embedding that the engine loads a second time: gemma3n.cpp and gemma4.cpp
    create the output before the embedding."""
    if header.architecture not in ("gemma3n", "gemma4"):
        return 0
    return next(t.n_bytes for t in header.tensors if t.name == "token_embd.weight")


def test_many_families_can_be_planned_from_the_catalog():
    assert len({model.shape.architecture for model in FAMILIES}) >= 20


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model.name)
def test_the_engine_takes_a_catalog_model_as_described(tmp_path, model, monkeypatch):
    """As stored: AMX's layout takes more, and copies a tied output (tests/plan/test_memory.py)."""
    monkeypatch.setenv("OKNO_AMX", "0")
    header = header_of_catalog(model, "Q4_K_M")
    path = write_header_gguf(header, tmp_path / "m.gguf")
    assert path.stat().st_blocks * 512 < 1 << 20
    again = read_header(path)
    assert (again.tensors, again.layers) == (header.tensors, header.layers)
    with DryRun(path, again) as dry:
        parts = dry.memory(LOAD).devices[0].parts
    stored = parts.weights_bytes + parts.repacked_bytes
    described = header.weights_bytes + twice(header)
    assert described <= stored <= described + 64 * len(header.tensors)
    full = [layer for layer in header.layers if layer.window is None]
    if len(full) == len(header.layers):  # the cells of windows are the planner's business
        per_token = sum(layer.k_width + layer.v_width for layer in full) * 2
        assert parts.kv_bytes == per_token * LOAD.window.kv_pool_tokens
    states = sum(layer.state_width for layer in header.layers)
    assert parts.state_bytes == states * STATE_BYTES * LOAD.window.batch_size


@pytest.mark.parametrize("shape", ["tiny", "gemma3-tiny", "mamba2-tiny", "bert-tiny"])
def test_a_sparse_copy_is_to_the_engine_what_the_file_is(tmp_path, make_model: MakeModel, shape):
    whole = make_model(shape, "F16")
    copy = write_sparse(whole, tmp_path / "copy.gguf")
    assert copy.stat().st_size == whole.stat().st_size
    assert read_header(copy).tensors == read_header(whole).tensors
    with DryRun(whole) as first, DryRun(copy) as second:
        assert first.memory(LOAD) == second.memory(LOAD)


def test_only_the_header_of_a_remote_file_is_fetched(tmp_path):
    with serving(Site({"/m.gguf": LARGE})) as site:
        copy = write_sparse(f"{site.url}/m.gguf", tmp_path / "m.gguf")
        last = max(int(asked.range.rpartition("-")[2]) for asked in site.asked if asked.range)
        assert read_header(copy) == read_header(f"{site.url}/m.gguf")
    assert last < len(LARGE) / 2
    assert copy.stat().st_size == len(LARGE)
    assert copy.stat().st_blocks * 512 < len(LARGE) / 2


def test_every_part_of_a_split_model_is_copied(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    first = write_sparse(split(tmp_path / "in"), tmp_path / "out" / "copy.gguf")
    assert first.name == "copy-00001-of-00003.gguf"
    assert len(read_header(first).tensors) == 3


def test_a_safetensors_model_has_no_header_to_copy(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnusable, match="write_header_gguf"):
        write_sparse(tmp_path, tmp_path / "x.gguf")


def test_nothing_is_left_when_the_source_is_not_sound(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelUnusable):
        write_sparse(tmp_path / "bad.gguf", tmp_path / "copy.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]
