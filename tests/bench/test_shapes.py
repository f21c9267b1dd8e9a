from __future__ import annotations

from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from okno.bench import shapes
from okno.bench.quantise import (
    CHUNK_VALUES,
    FILE_TYPES,
    REPEAT_VALUES,
    FileType,
    random_weights,
    storage_type,
    stored_bytes,
)
from okno.bench.raw import RawEngine, RawOptions, Row, open_raw
from okno.bench.shapes import PRESETS, main, write_gguf, write_header
from okno.bench.tensors import Tensor, tensors
from okno.bench.vocab import byte_bpe, wordpiece
from okno.inspect.header import read_header
from tests.conftest import MakeModel

TEXT = "Hello, мир! 123 \n{} 漢字 🙂"
GENERATIVE = (
    "tiny", "mha-tiny", "qwen3-tiny", "gemma3-tiny", "gpt-oss-tiny", "qwen3moe-tiny",
    "deepseek2-tiny", "mamba2-tiny", "granite-tiny", "lfm2-tiny", "phi-tiny",
)  # fmt: skip


def generate(engine: RawEngine, count: int) -> list[int]:
    prompt = engine.tokenize(TEXT)
    engine.prefill(prompt)
    tokens: list[int] = []
    for position in range(len(prompt), len(prompt) + count):
        tokens.append(int(engine.logits().argmax()))
        engine.decode([Row(tokens[-1], position)])
    return tokens


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    for file, seed in zip(files, (7, 7, 8), strict=True):
        write_gguf(PRESETS["tiny"], file, "Q8_0", seed)
    first, same, other = (file.read_bytes() for file in files)
    assert first == same
    assert first != other


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_every_file_type_loads_and_decodes(make_model: MakeModel, file_type: FileType) -> None:
    with open_raw(make_model("tiny", file_type), RawOptions(ctx=256)) as engine:
        assert len(set(generate(engine, 16))) > 2
        assert engine.logits().std() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("shape", GENERATIVE)
def test_every_generative_shape_loads_and_decodes(make_model: MakeModel, shape: str) -> None:
    with open_raw(make_model(shape), RawOptions(ctx=256)) as engine:
        assert len(set(generate(engine, 16))) > 2
        assert np.isfinite(engine.logits()).all()


@pytest.mark.parametrize("shape", GENERATIVE)
def test_text_comes_back_exactly_from_tokens(make_model: MakeModel, shape: str) -> None:
    with open_raw(make_model(shape), RawOptions(ctx=256)) as engine:
        tokens = engine.tokenize(TEXT)
        assert b"".join(map(engine.piece, tokens)).decode() == TEXT
        assert len(tokens) < len(TEXT.encode())


def test_the_vocabulary_has_russian_letters_and_common_pairs_as_tokens(
    make_model: MakeModel,
) -> None:
    with open_raw(make_model("tiny"), RawOptions(ctx=256)) as engine:
        assert len(engine.tokenize("привет")) == 6
        assert len(engine.tokenize("abab")) == 2


def test_an_embedding_shape_gives_one_vector_per_text(make_model: MakeModel) -> None:
    def embed(text: str) -> np.ndarray:
        engine.decode([Row(token, i) for i, token in enumerate(engine.tokenize(text))])
        return engine.pooled()

    with open_raw(make_model("bert-tiny"), RawOptions(ctx=128, embeddings=True)) as engine:
        first, again, other = embed("the cat"), embed("the cat"), embed("собака")
    assert first.shape == (PRESETS["bert-tiny"].n_embd,)
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_only_recurrent_shapes_refuse_to_roll_back(make_model: MakeModel) -> None:
    """What ModelFacts.shares_prefixes stands on."""
    rolled_back = {}
    for shape in GENERATIVE:
        with open_raw(make_model(shape), RawOptions(ctx=256)) as engine:
            generate(engine, 4)
            rolled_back[shape] = bool(lib.llama_memory_seq_rm(engine.memory, 0, 5, -1))
    refused = [shape for shape, done in rolled_back.items() if not done]
    assert refused == ["mamba2-tiny", "granite-tiny", "lfm2-tiny"]


def test_experts_in_mxfp4_load_and_decode(make_model: MakeModel) -> None:
    with open_raw(make_model("gpt-oss-tiny", "MXFP4"), RawOptions(ctx=256)) as engine:
        assert len(set(generate(engine, 16))) > 2
        assert np.isfinite(engine.logits()).all()


def test_llama_2_13b_in_four_bits_takes_7_4_gigabytes() -> None:
    shape = PRESETS["llama-13b"]
    stored = sum(stored_bytes(t, storage_type(shape, t, "Q4_0")) for t in tensors(shape))
    assert stored == pytest.approx(7.37e9, rel=0.005)


def test_a_large_tensor_repeats_its_first_rows_and_stays_within_memory() -> None:
    tensor = Tensor("blk.0.ffn_up.weight", 5 * 4096, 4096)
    stored = random_weights(tensor, "Q4_0", 0).reshape(tensor.rows, -1)
    step = CHUNK_VALUES // tensor.columns
    assert tensor.n_values > REPEAT_VALUES
    assert np.array_equal(stored[:step], stored[step : 2 * step])
    assert not np.array_equal(stored[0], stored[1])


def test_a_header_alone_says_the_same_as_the_whole_file(
    make_model: MakeModel, tmp_path: Path
) -> None:
    whole = make_model("qwen3moe-tiny", "Q4_0")
    sparse = tmp_path / whole.name
    assert write_header(PRESETS["qwen3moe-tiny"], sparse, "Q4_0") == whole.stat().st_size
    assert read_header(sparse) == read_header(whole)


def test_the_tiny_shapes_are_small(make_model: MakeModel) -> None:
    assert make_model("tiny").stat().st_size < 1_000_000


def test_llama_1b_has_one_billion_weights() -> None:
    assert PRESETS["llama-1b"].n_params() == pytest.approx(1.04e9, rel=0.01)
    assert PRESETS["llama-135m"].n_params() == pytest.approx(134.5e6, rel=0.01)


def test_a_q4_k_m_file_keeps_the_same_tensors_fine_as_llama_quantize() -> None:
    shape = PRESETS["llama-1b"]
    types = {t.name: storage_type(shape, t, "Q4_K_M") for t in tensors(shape)}
    assert types["token_embd.weight"] == "Q6_K"  # tied: it is the output layer
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    fine = [i for i in range(16) if types[f"blk.{i}.ffn_down.weight"] == "Q6_K"]
    assert fine == [0, 1, 4, 7, 10, 13, 14, 15]
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_rows_that_are_no_whole_blocks_fall_back_to_a_finer_type() -> None:
    shape = PRESETS["llama-135m"]
    types = {t.name: storage_type(shape, t, "Q4_K_M") for t in tensors(shape)}
    assert types["blk.5.attn_q.weight"] == "Q5_0"
    assert types["token_embd.weight"] == "Q8_0"


def test_a_write_that_breaks_off_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(tensor: Tensor, ggml_type: str, seed: int) -> np.ndarray:
        if tensor.name.startswith("blk.1"):
            raise OSError("no space left on device")
        return random_weights(tensor, ggml_type, seed)

    monkeypatch.setattr(shapes, "random_weights", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_gguf(PRESETS["tiny"], tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [byte_bpe, wordpiece])
def test_vocabularies_have_exactly_the_size_asked_for_and_no_token_twice(make: type) -> None:
    vocab = make(1234)
    assert len(vocab.tokens) == len(set(vocab.tokens)) == 1234
    with pytest.raises(ValueError, match="at least"):
        make(100)


def test_the_command_writes_the_file_and_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "model.gguf"
    main(["tiny", "--type", "Q4_0", "--out", str(out)])
    assert out.read_bytes().startswith(b"GGUF")
    assert "tiny Q4_0, 0.1 M weights, 0.1 MB" in capsys.readouterr().out
