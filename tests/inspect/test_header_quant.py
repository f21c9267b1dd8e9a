"""Types of tensors as llama-quantize itself chooses them, file type by file type."""

from __future__ import annotations

from pathlib import Path

import pytest

from okno.core.header import ModelHeader
from okno.inspect.catalog import Moe, Shape
from okno.inspect.gguf_types import FILE_TYPES
from okno.inspect.header import read_header
from okno.inspect.header_quant import DEFAULTS, typed
from okno.inspect.header_shape import sizes_of, values_of
from okno.inspect.header_tensors import tensors_of
from okno.inspect.header_values import header_of_values
from okno.inspect.sparse import write_header_gguf

NUMBERS = {name: number for number, name in FILE_TYPES.items()}
SMALL = Shape("llama", n_layer=16, n_embd=256, n_ff=256, n_head=4, n_head_kv=4, head_dim=64,
              n_vocab=300, ctx_train=64, tied=False)  # fmt: skip


def shaped(**changes: object) -> Shape:
    from dataclasses import replace

    return replace(SMALL, **changes)  # type: ignore[arg-type]


SHAPES = {
    "untied MHA": SMALL,
    "tied GQA": shaped(tied=True, n_head=8, n_head_kv=2, head_dim=32),
    "odd widths": shaped(n_embd=288, n_ff=288, head_dim=72),
    "fused": shaped(architecture="phi3"),
    "8 experts": shaped(moe=Moe(8, 2, 256), n_layer=9),
    "16 experts": shaped(architecture="qwen3moe", moe=Moe(16, 4, 256), n_layer=9),
    "two norms": shaped(architecture="gemma2", tied=True),
}


def header(shape: Shape, file_type: str) -> ModelHeader:
    sizes = sizes_of(shape, "m")
    tensors = typed(
        tensors_of(sizes), file_type, architecture=sizes.architecture, n_layer=sizes.n_layer,
        n_gqa=sizes.n_head // sizes.n_head_kv, n_expert=sizes.moe.n_expert if sizes.moe else 0,
    )  # fmt: skip
    return header_of_values("m", "catalog", values_of(sizes, "m"), tensors, 0,
                            n_tokens=sizes.n_vocab)  # fmt: skip


@pytest.fixture(scope="module")
def quantise(tmp_path_factory):
    """quantise(shape, file type): the types llama.cpp's quantiser stores a model of zeros in."""
    import ctypes

    import llama_cpp.llama_cpp as lib

    from okno.engines.llama_model import start_backend

    start_backend()
    folder = tmp_path_factory.mktemp("quantised")

    def run(name: str, file_type: str) -> dict[str, str]:
        source = folder / f"{name}.gguf"
        if not source.exists():
            write_header_gguf(header(SHAPES[name], "F32"), source)
        target = folder / "out.gguf"
        params = lib.llama_model_quantize_default_params()
        params.ftype, params.nthread = NUMBERS[file_type], 1
        arguments = (str(source).encode(), str(target).encode(), ctypes.byref(params))
        assert lib.llama_model_quantize(*arguments) == 0
        return types_of(read_header(target))

    return run


def types_of(found: ModelHeader) -> dict[str, str]:
    return {tensor.name: tensor.type for tensor in found.tensors}


@pytest.mark.parametrize("file_type", sorted(set(DEFAULTS) - {"F32"}))
@pytest.mark.parametrize("name", SHAPES)
def test_every_tensor_gets_the_type_the_quantiser_gives_it(quantise, name, file_type):
    assert types_of(header(SHAPES[name], file_type)) == quantise(name, file_type)


def test_a_70b_model_keeps_its_few_values_finer():
    types = types_of(header(shaped(n_layer=80, n_head=8, n_head_kv=2, head_dim=32), "Q4_K_M"))
    assert "Q4_K" not in {kind for name, kind in types.items() if "attn_v" in name}


def test_stored_bytes_are_whole_blocks(tmp_path: Path):
    found = header(SMALL, "Q4_K_M")
    path = write_header_gguf(found, tmp_path / "m.gguf")
    assert read_header(path).tensors == found.tensors
