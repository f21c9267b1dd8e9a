"""Encoding by the library where the engine would cut otherwise: long words, damaged vocabularies,
and the same ids in every process that encodes text."""

from __future__ import annotations

import random
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from okno.convert.fields import Field
from okno.convert.vocabulary import vocabulary_of
from okno.engines.library_encoder import MOST_DIGITS, library_encoder
from okno.engines.llama_vocab import LlamaVocabulary
from okno.engines.tokenise import tokenise
from okno.inspect.pretokenizers import BY_LIBRARY, KNOWN, library_rules
from tests.convert.sampled_texts import sampled_texts
from tests.convert.trained import byte_level, splits
from tests.convert.vocab_engine import load_vocab, write_vocab
from tests.engines.drive import DEMO, running

RULES = {pre.name: (rules, pre) for rules, known in KNOWN.items() for pre in known}
LONG = [character * 60_000 for character in ("a", "я", "中", "!", " ", "\n", "\u0301")]


def trained(folder: Path, name: str) -> tuple[Tokenizer, dict[str, Field]]:
    rules, pre = RULES[name]
    tokenizer = byte_level(folder, splits(rules), whole_words=pre.whole_words)
    return tokenizer, vocabulary_of(folder, tokenizer.get_vocab_size())


def ids(vocab: LlamaVocabulary, text: str) -> list[int]:
    return vocab.encode(text, add_special=False, parse_special=True)


@pytest.mark.parametrize("name", RULES)
def test_words_of_any_length_are_cut(name: str, tmp_path: Path):
    """In a child: std::regex in the engine ends the process on each of these."""
    tokenizer, fields = trained(tmp_path, name)
    write_vocab(fields, tmp_path / "v.gguf")
    texts = [*LONG, "1" * 4000, *sampled_texts(200)]
    tokenizer.encode_special_tokens = True
    expected = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    found = tokenise(tmp_path / "v.gguf", texts)
    assert [tokenised.n_tokens for tokenised in found] == expected


def test_long_runs_of_digits_are_cut_by_threes_from_the_right(tmp_path: Path):
    tokenizer, fields = trained(tmp_path, "superbpe")
    vocab = load_vocab(fields, tmp_path / "v.gguf")
    draw = random.Random(5)
    lengths = [MOST_DIGITS + more for more in (-1, 0, 1, 2, 3, MOST_DIGITS, MOST_DIGITS + 1, 1500)]
    for length in lengths:
        for digits in ("0123456789", "٠١٢٣٤٥٦٧٨٩", "0٠½"):
            text = "x" + "".join(draw.choices(digits, k=length)) + " 12345½" + "7" * length
            assert ids(vocab, text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_million_digits_take_seconds(tmp_path: Path):
    vocab = load_vocab(trained(tmp_path, "superbpe")[1], tmp_path / "v.gguf")
    text = "1" * 1_000_000  # looked at whole from each digit on: a quarter of an hour
    assert b"".join(map(vocab.label, ids(vocab, text))) == text.encode()


@pytest.mark.parametrize(("name", "same"), BY_LIBRARY.items())
def test_names_of_other_files_have_rules(name: str, same: str, tmp_path: Path):
    found = library_rules(name)
    assert found is not None
    tokenizer, fields = trained(tmp_path, same)
    vocab = load_vocab(fields | {"tokenizer.ggml.pre": name}, tmp_path / "v.gguf")
    for text in sampled_texts(300, seed=7):
        assert ids(vocab, text) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35"])
def test_the_engine_encodes_where_it_is_exact(name: str, tmp_path: Path):
    assert library_encoder(name, list, tmp_path / "not there") is None


@pytest.mark.parametrize(
    "merges",
    [
        ("",),
        ("Ġ t", "no such", "t no", "a", " ", "  ", "a b c", "Ð Ð", "Ð Ð"),
        tuple("a" * n + " " + "a" * n for n in range(1, 300)),
    ],
    ids=["none", "of tokens that are not there", "of nothing"],
)
def test_merges_that_fit_no_vocabulary_are_left_out(merges: tuple[str, ...], tmp_path: Path):
    _, fields = trained(tmp_path, "tekken")
    vocab = load_vocab(fields | {"tokenizer.ggml.merges": merges}, tmp_path / "v.gguf")
    for text in sampled_texts(100, seed=8):
        assert b"".join(map(vocab.label, ids(vocab, text))) == text.encode()


def test_a_vocabulary_that_lacks_bytes_leaves_them_out(tmp_path: Path):
    _, fields = trained(tmp_path, "gpt-4o")
    tokens = fields["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    without = tuple("[no a]" if token == "a" else str(token) for token in tokens)
    changed = {"tokenizer.ggml.tokens": without, "tokenizer.ggml.merges": ("",)}
    vocab = load_vocab(fields | changed, tmp_path / "v.gguf")
    assert b"".join(map(vocab.label, ids(vocab, "banana"))) == b"bnn"


def test_many_threads_get_the_same_ids(tmp_path: Path):
    _, fields = trained(tmp_path, "gpt-4o")
    vocab = load_vocab(fields, tmp_path / "v.gguf")
    texts = list(sampled_texts(400, seed=11))
    alone = [ids(vocab, text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert list(pool.map(lambda text: ids(vocab, text), texts)) == alone


@pytest.mark.parametrize("name", ["tekken", "gpt-2"])
@pytest.mark.parametrize("adds_eos", [True, False])
def test_begin_and_end_are_put_around_a_text(name: str, adds_eos: bool, tmp_path: Path):
    tokenizer, fields = trained(tmp_path, name)
    around = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": adds_eos}
    vocab = load_vocab(fields | around, tmp_path / "v.gguf")
    begin, end = (tokenizer.token_to_id(text) for text in ("<|bos|>", "<|im_end|>"))
    found = vocab.encode("Привет", add_special=True, parse_special=False)
    assert found == [begin, *ids(vocab, "Привет"), *([end] if adds_eos else [])]
    assert vocab.encode("", add_special=False, parse_special=False) == []


def demo_of_another_kind(folder: Path) -> Path:
    """The demo's file with a rule whose name is as long (bloom for qwen2)."""
    data = Path(DEMO.model_path).read_bytes()
    key = b"tokenizer.ggml.pre" + struct.pack("<IQ", 8, 5)
    assert key + b"qwen2" in data
    path = folder / "bloom.gguf"
    path.write_bytes(data.replace(key + b"qwen2", key + b"bloom"))
    return path


async def test_a_served_model_survives_a_long_word_and_agrees_with_okno_tokens(tmp_path: Path):
    path = demo_of_another_kind(tmp_path)
    texts = ["я" * 60_000, "Привет, мир! 123…", "क्षि"]
    async with running(DEMO, model_path=str(path)) as worker:
        served = [await worker.tokenize(text) for text in texts]
    found = [tokenised.n_tokens for tokenised in tokenise(path, texts)]
    assert [len(answer.tokens) for answer in served] == found
