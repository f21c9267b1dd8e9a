"""Random GPTQ checkpoints look like those people have, and convert."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

from okno.bench.gptq import Options, main, write_gptq
from okno.bench.shapes import PRESETS
from okno.convert.checkpoint import Checkpoint
from okno.convert.packed_layer import packed_layer
from okno.convert.packing import packing_of
from okno.convert.planned import planned
from okno.convert.repack import weights
from okno.convert.wants import Wants

TINY = PRESETS["tiny"]


def test_the_13b_shape_is_named_and_sized_as_the_repository_of_it() -> None:
    """TheBloke/Llama-2-13B-GPTQ, 4 bits, groups of 128: 7.26 GB."""
    from okno.bench.gptq import _entries

    sizes = {e.name: e.n_bytes for e in _entries(PRESETS["llama-13b"], Options())}
    assert sum(sizes.values()) == pytest.approx(7.26e9, rel=0.01)
    assert sizes["model.layers.39.mlp.down_proj.qweight"] == 13_824 * 5_120 // 2


def test_weights_keep_the_scale_of_what_passes_through(tmp_path: Path) -> None:
    write_gptq(TINY, tmp_path, Options(group=32))
    checkpoint = Checkpoint(tmp_path)
    packing = packing_of(json.loads((tmp_path / "config.json").read_text()), {}, "m")
    assert packing is not None
    layer = packed_layer(packing, "model.layers.0.mlp.down_proj", checkpoint.read)
    found, _ = weights(layer, 0, layer.n_rows)
    assert found.std() == pytest.approx(layer.n_columns**-0.5, rel=0.05)


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_gptq(TINY, tmp_path / name, Options(group=32, seed=seed))
    first, same, other = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b", "c")
    )
    assert first == same
    assert first != other


@pytest.mark.parametrize(("act_order", "kind"), [(False, "Q4_0"), (True, "Q8_0")])
def test_layers_with_the_same_inputs_have_the_same_order(
    tmp_path: Path, act_order: bool, kind: str
) -> None:
    write_gptq(TINY, tmp_path, Options(group=32, act_order=act_order, zero_bias=True))
    checkpoint = Checkpoint(tmp_path)
    orders = [checkpoint.read(f"model.layers.1.self_attn.{n}_proj.g_idx") for n in "qkv"]
    assert all(np.array_equal(orders[0], order) for order in orders)
    packed = planned(checkpoint, Wants()).packed
    assert packed["blk.1.attn_q.weight"].ggml_type == kind
    assert packed["blk.1.ffn_down.weight"].ggml_type == "Q4_0"


def test_the_command_writes_a_folder_that_converts(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    from okno.convert.progress import silent
    from okno.convert.ready import convert

    main(["tiny", "--group", "32", "--asymmetric", "--out", str(tmp_path / "m")])
    made = convert(tmp_path / "m", tmp_path / "m.gguf", Wants(), silent)
    reader = gguf.GGUFReader(made.path)
    assert reader.fields["tokenizer.ggml.model"].contents() == "llama"
    found = {t.name: t for t in reader.tensors}["blk.0.ffn_up.weight"]
    assert found.tensor_type.name == "Q4_1"
    assert np.isfinite(quants.dequantize(found.data, found.tensor_type)).all()
