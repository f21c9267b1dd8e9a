"""Byte-level BPE: the real engine with okno's fields gives the ids that `tokenizers` gives."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from okno.convert.token_list import TokenType
from okno.convert.vocabulary import vocabulary_of
from okno.core.errors import ModelUnusable
from okno.engines.llama_vocab import LlamaVocabulary
from okno.inspect.pretokenizers import KNOWN
from tests.convert.sampled_texts import sampled_texts
from tests.convert.trained import byte_level, splits
from tests.convert.vocab_engine import load_vocab

CASES = [
    pytest.param(rules, pre.name, pre.whole_words, id=pre.name)
    for rules, known in KNOWN.items()
    for pre in known
]
GPT_2 = next(iter(KNOWN))


def engine(folder: Path, tokenizer: Tokenizer, extra: int = 3) -> LlamaVocabulary:
    fields = vocabulary_of(folder, tokenizer.get_vocab_size() + extra)
    return load_vocab(fields, folder / "vocab.gguf")


@pytest.mark.parametrize(("rules", "name", "whole_words"), CASES)
def test_ids_are_those_of_tokenizers(
    rules: tuple[str, ...], name: str, whole_words: bool, tmp_path: Path
):
    tokenizer = byte_level(tmp_path, splits(rules), whole_words=whole_words)
    vocab = engine(tmp_path, tokenizer)
    other = [
        text
        for text in sampled_texts(10_000)
        if vocab.encode(text, add_special=False, parse_special=True)
        != tokenizer.encode(text, add_special_tokens=False).ids
    ]
    assert other == []


def test_decomposed_characters_are_composed_where_the_tokenizer_does_it(tmp_path: Path):
    tokenizer = byte_level(tmp_path, splits(GPT_2), nfc=True)
    vocab = engine(tmp_path, tokenizer)
    decomposed = [unicodedata.normalize("NFD", text) for text in sampled_texts(10_000)]
    for text in [*decomposed, "<|im_end|>\u0338", "<tool_call>\u0338и\u0306"]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert vocab.encode(text, add_special=False, parse_special=True) == ids
    assert any(text != other for text, other in zip(sampled_texts(10), decomposed, strict=False))


@pytest.mark.parametrize(("rules", "name", "whole_words"), CASES)
def test_text_comes_back_from_its_tokens(
    rules: tuple[str, ...], name: str, whole_words: bool, tmp_path: Path
):
    vocab = engine(tmp_path, byte_level(tmp_path, splits(rules), whole_words=whole_words))
    for text in sampled_texts(500, seed=3):
        tokens = vocab.encode(text, add_special=False, parse_special=True)
        assert b"".join(vocab.label(token) for token in tokens) == text.encode()


@pytest.mark.parametrize(("rules", "name", "whole_words"), CASES)
def test_special_tokens_in_a_users_text_are_text(
    rules: tuple[str, ...], name: str, whole_words: bool, tmp_path: Path
):
    tokenizer = byte_level(tmp_path, splits(rules), whole_words=whole_words)
    vocab = engine(tmp_path, tokenizer)
    tokenizer.encode_special_tokens = True
    for text in sampled_texts(1000, seed=4):
        tokens = vocab.encode(text, add_special=False, parse_special=False)
        assert tokens == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_tokenizer_of_both_spellings_of_merges_gives_the_same_fields(tmp_path: Path):
    tokenizer = byte_level(tmp_path, splits(GPT_2))
    path = tmp_path / "tokenizer.json"
    pairs = json.loads(path.read_text())
    before = vocabulary_of(tmp_path, tokenizer.get_vocab_size())
    assert all(isinstance(merge, list) for merge in pairs["model"]["merges"])
    pairs["model"]["merges"] = [" ".join(merge) for merge in pairs["model"]["merges"]]
    path.write_text(json.dumps(pairs))
    assert vocabulary_of(tmp_path, tokenizer.get_vocab_size()) == before


@pytest.mark.parametrize("name", ["gpt-2", "qwen2"])
def test_vocab_and_merges_alone_give_the_same_fields(name: str, tmp_path: Path):
    rules = next(rules for rules, known in KNOWN.items() if known[0].name == name)
    tokenizer = byte_level(tmp_path, splits(rules), nfc=name == "qwen2")
    n_vocab = tokenizer.get_vocab_size()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    added = tokenizer.get_added_tokens_decoder().items()
    config["added_tokens_decoder"] = {
        id_: {"content": token.content, "special": token.special} for id_, token in added
    }
    whole = vocabulary_of(tmp_path, n_vocab)
    tokenizer.model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    classes = {"gpt-2": "GPT2TokenizerFast", "qwen2": "Qwen2Tokenizer"}
    config["tokenizer_class"] = classes[name]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert vocabulary_of(tmp_path, n_vocab) == whole
    config["tokenizer_class"] = "OtherTokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnusable, match=r"tokenizer_class .* is OtherTokenizer"):
        vocabulary_of(tmp_path, n_vocab)


def test_a_vocabulary_of_bytes_alone_is_loaded(tmp_path: Path):
    tokenizer = byte_level(tmp_path, splits(GPT_2))
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    vocab = engine(tmp_path, tokenizer)
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in sampled_texts(200):
        ids = alone.encode(text, add_special_tokens=False).ids
        assert vocab.encode(text, add_special=False, parse_special=True) == ids


def test_ids_without_a_token_are_unused_and_never_come_up(tmp_path: Path):
    tokenizer = byte_level(tmp_path, splits(GPT_2))
    n_vocab = tokenizer.get_vocab_size()
    fields = vocabulary_of(tmp_path, n_vocab + 2)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert isinstance(tokens, tuple)
    assert isinstance(types, tuple)
    assert tokens[n_vocab:] == (f"[PAD{n_vocab}]", f"[PAD{n_vocab + 1}]")
    assert set(types[n_vocab:]) == {int(TokenType.UNUSED)}
    vocab = load_vocab(fields, tmp_path / "vocab.gguf")
    text = f"[PAD{n_vocab}]"
    assert n_vocab not in vocab.encode(text, add_special=False, parse_special=True)


def test_tokens_that_are_shown_and_those_that_are_not(tmp_path: Path):
    tokenizer = byte_level(tmp_path, splits(GPT_2))
    vocab = engine(tmp_path, tokenizer)
    shown = tokenizer.token_to_id("<tool_call>")
    assert vocab.pieces[shown] == b"<tool_call>"
    assert vocab.pieces[tokenizer.token_to_id("<|im_start|>")] == b""
    assert vocab.end_tokens == {tokenizer.token_to_id("<|im_end|>")}
    assert vocab.bos == tokenizer.token_to_id("<|bos|>")
