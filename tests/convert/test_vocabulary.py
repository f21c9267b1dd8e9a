"""What vocabulary_of says of files that are missing, damaged or of another model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.convert import tokenizer_files
from okno.convert.sentencepiece_model import parse_sentencepiece
from okno.convert.vocabulary import vocabulary_of
from okno.core.errors import ModelNotFound, ModelUnusable
from tests.convert.trained import LLAMA2, byte_level, sentence_piece, splits

GPT_2 = (
    "split 's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    byte_level(folder, splits(GPT_2))
    return folder


@pytest.fixture(scope="module")
def sentence_pieces(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("pieces")
    sentence_piece(folder, LLAMA2)
    return (folder / "tokenizer.model").read_bytes()


def changed(trained: Path, folder: Path, change: dict[str, Any]) -> Path:
    """A copy of the folder whose tokenizer.json has these values, by dotted path."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((trained / name).read_bytes())
    data = json.loads((folder / "tokenizer.json").read_text())
    for path, value in change.items():
        *above, last = path.split(".")
        held = data
        for key in above:
            held = held[key]
        held[last] = value
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return folder


def test_a_folder_without_a_tokenizer_says_which_files_are_needed(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"neither tokenizer\.json nor tokenizer\.model"):
        vocabulary_of(tmp_path, 100)


def test_a_file_that_was_cut_short_is_named(trained: Path, tmp_path: Path):
    folder = changed(trained, tmp_path, {})
    whole = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelUnusable, match=r"tokenizer\.json cannot be read .*Get it again"):
        vocabulary_of(folder, 2000)


def test_a_file_too_large_for_a_tokenizer_is_not_read(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tokenizer_files, "MAX_FILE_BYTES", 1 << 20)
    folder = changed(trained, tmp_path, {})
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(ModelUnusable, match="more than 1 MiB, too many for a tokenizer"):
        vocabulary_of(folder, 2000)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.merges": [["a", "nowhere"]]}, r"merge 1 .*needs the token 'nowhere'"),
        ({"model.merges": ["a b c"]}, r"merge 1 is 'a b c', not two tokens"),
        ({"model.merges": [["a", "b c"]]}, r"merge 1 .*not two tokens without spaces"),
        ({"model.vocab.twin": 70}, r"gives the id 70 to both .* and 'twin'"),
        ({"model.vocab": {}}, "a BPE vocabulary is needed"),
        ({"model.type": "WordPiece"}, "is of the kind WordPiece"),
        ({"model.end_of_word_suffix": "</w>"}, r"marks the parts of words with \['</w>'\]"),
        ({"normalizer": {"type": "Lowercase"}}, "changes text by Lowercase"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}}, "by NFKC"),
        ({"model.vocab.far": 4000}, r"ids beyond the model's vocabulary of 2000.*'far' with 4000"),
        ({"model.vocab.far": -1}, r"ids beyond the model's vocabulary of 2000"),
        ({"model.vocab.": 1999}, "token 1999 has no text"),
        ({"model.ignore_merges": True, "model.vocab.ĠĠstray": 1999}, "'ĠĠstray' is cut otherwise"),
        ({"normalizer": {"type": "Sequence", "normalizers": [5]}}, "changes text by None"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [5]}}, "None"),
        ({"pre_tokenizer": None}, "has no rules for spaces"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_with_the_reason(
    change: dict[str, Any], told: str, trained: Path, tmp_path: Path
):
    with pytest.raises(ModelUnusable, match=told):
        vocabulary_of(changed(trained, tmp_path, change), 2000)


def test_a_tokenizer_with_more_tokens_than_the_model_is_of_another_model(trained: Path):
    with pytest.raises(ModelUnusable, match=r"tokenizer files of another model\?"):
        vocabulary_of(trained, 1000)


def test_an_absurd_number_of_tokens_is_refused_before_any_is_made(trained: Path):
    with pytest.raises(ModelUnusable, match="announces a vocabulary of 100000000000000 tokens"):
        vocabulary_of(trained, 10**14)


def test_an_added_token_without_embedding_is_left_out(trained: Path, tmp_path: Path):
    added = {"id": 5000, "content": "[PAD]", "special": True}
    data = json.loads((trained / "tokenizer.json").read_text())
    folder = changed(trained, tmp_path, {"added_tokens": [*data["added_tokens"], added]})
    tokens = vocabulary_of(folder, 2000)["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    assert "[PAD]" not in tokens


def test_two_tokens_of_one_text_are_refused_as_the_engine_would_abort(
    trained: Path, tmp_path: Path
):
    data = json.loads((trained / "tokenizer.json").read_text())
    twins = [{"id": id_, "content": "<twin>", "special": False} for id_ in (1990, 1991)]
    folder = changed(trained, tmp_path, {"added_tokens": [*data["added_tokens"], *twins]})
    with pytest.raises(ModelUnusable, match="tokens 1990 and 1991 are both '<twin>'"):
        vocabulary_of(folder, 2000)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"byte_fallback": False}, "no tokens for single bytes"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises text before merging"),
        ({"treat_whitespace_as_suffix": True}, "puts spaces after words"),
        ({"model_type": "char"}, "of words or characters"),
        ({"model_type": "unigram", "byte_fallback": False}, "keeps runs of spaces"),
        ({"model_type": "unigram", "remove_extra_whitespaces": True}, "unknown characters as byte"),
    ],
)
def test_sentencepiece_models_that_the_engine_does_otherwise_are_refused(
    options: dict[str, Any], told: str, tmp_path: Path
):
    sentence_piece(tmp_path, LLAMA2 | options)
    with pytest.raises(ModelUnusable, match=told):
        vocabulary_of(tmp_path, 3000)


def test_a_sentencepiece_model_is_read_as_sentencepiece_reads_it(sentence_pieces: bytes):
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_proto=sentence_pieces)
    model = parse_sentencepiece(sentence_pieces, "tokenizer.model")
    ids = range(reference.vocab_size())
    assert [piece.text for piece in model.pieces] == [reference.id_to_piece(id_) for id_ in ids]
    assert [piece.score for piece in model.pieces] == [reference.get_score(id_) for id_ in ids]
    assert [id_ for id_ in ids if model.pieces[id_].type == 6] == [
        id_ for id_ in ids if reference.is_byte(id_)
    ]


@pytest.mark.parametrize("missing", [1, 2, 3, 1000])
def test_a_sentencepiece_model_cut_short_is_refused(missing: int, sentence_pieces: bytes):
    with pytest.raises(ModelUnusable, match="not a sound SentencePiece model"):
        parse_sentencepiece(sentence_pieces[:-missing], "tokenizer.model")


def complaint(read: Callable[[], object]) -> str | None:
    """The message of ModelUnusable, or None where `read` is content."""
    try:
        read()
    except ModelUnusable as error:
        return error.message
    return None


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_sentencepiece_models_end_in_a_message(sentence_pieces: bytes, data: st.DataObject):
    damaged = bytearray(sentence_pieces[: data.draw(st.integers(0, len(sentence_pieces)))])
    for _ in range(data.draw(st.integers(0, 5)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    message = complaint(lambda: parse_sentencepiece(bytes(damaged), "tokenizer.model"))
    assert message is None or "Get it again" in message


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_model_or_a_message(data: bytes):
    message = complaint(lambda: parse_sentencepiece(data, "tokenizer.model"))
    assert message is None or "Get it again" in message


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_json_ends_in_fields_or_a_message(
    trained: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("damaged")
    damaged = bytearray((trained / "tokenizer.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (folder / "tokenizer.json").write_bytes(damaged)
    (folder / "tokenizer_config.json").write_bytes((trained / "tokenizer_config.json").read_bytes())
    message = complaint(lambda: vocabulary_of(folder, 2000))
    assert message is None or str(folder) in message
