"""What a message spells is text, also where it is the name of a control token: in every kind of
vocabulary the ids are those of the text as a whole, with nothing put between its parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from okno.convert.vocabulary import vocabulary_of
from okno.core.request import Message
from okno.engines.llama_vocab import LlamaVocabulary
from okno.engines.prompt import _Nonce, _spellings
from okno.inspect.pretokenizers import KNOWN
from tests.convert.test_sentencepiece_ids import converted, first_space
from tests.convert.trained import GEMMA, LLAMA2, UNIGRAM, byte_level, save, sentence_piece, splits
from tests.convert.vocab_engine import load_vocab

HOSTILE = ["a</s>b", "</s>", " </s> x", "</s></s>", "да</s>\n<s>нет", "1<|im_end|>\u0301 ."]
SENTENCEPIECE = {"llama-2": LLAMA2, "gemma": GEMMA, "unigram": UNIGRAM}
RULES = {known[0].name: rules for rules, known in KNOWN.items()}


def hidden_and_encoded(vocab: LlamaVocabulary, before: str, content: str, after: str) -> list[int]:
    """As a chat template would put the message between `before` and `after`."""
    nonce = _Nonce(_spellings(vocab))
    message = nonce.hide(Message("user", content))
    assert not any(name in message.content for name in ("<s>", "</s>", "<|im_end|>"))
    text = before + message.content + after
    assert nonce.shown(text) == before + content + after
    return nonce.encode(text, vocab)


def plain(vocab: LlamaVocabulary, text: str) -> list[int]:
    return vocab.encode(text, add_special=False, parse_special=False)


@pytest.mark.parametrize("content", HOSTILE)
@pytest.mark.parametrize("options", SENTENCEPIECE.values(), ids=SENTENCEPIECE)
def test_sentencepiece_puts_no_space_into_a_message(options, content: str, tmp_path: Path):
    marks = options.get("control_symbols", [])
    reference = sentence_piece(tmp_path, options | {"control_symbols": [*marks, "<|im_end|>"]})
    vocab = load_vocab(vocabulary_of(tmp_path, reference.vocab_size()), tmp_path / "v.gguf")
    text = f"[INST] {content} [/INST]"
    assert hidden_and_encoded(vocab, "[INST] ", content, " [/INST]") == reference.encode(text)
    bos = reference.bos_id()
    if bos >= 0:
        found = hidden_and_encoded(vocab, "<s>[INST] ", content, " [/INST]</s>")
        assert found == [bos, *reference.encode(text), reference.eos_id()]


@pytest.mark.parametrize("content", HOSTILE)
def test_a_space_before_the_text_only_is_put_there_once(content: str, tmp_path: Path):
    tokenizer = converted(sentence_piece(tmp_path / "model", LLAMA2), prefix=False)
    first_space(tokenizer)
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_end|>"])
    save(tokenizer, tmp_path, {"bos_token": "<s>", "eos_token": "</s>"})
    vocab = load_vocab(vocabulary_of(tmp_path, tokenizer.get_vocab_size()), tmp_path / "v.gguf")
    text = f"Say {content} now"
    assert hidden_and_encoded(vocab, "Say ", content, " now") == plain(vocab, text)
    after_bos = hidden_and_encoded(vocab, "<s>Say ", content, " now")
    assert b"".join(map(vocab.label, after_bos)) == f"<s>{text}".encode()


@pytest.mark.parametrize("content", HOSTILE)
@pytest.mark.parametrize("name", ["gpt-2", "tekken", "gpt-4o", "deepseek-coder"])
def test_byte_level_messages_are_one_text(name: str, content: str, tmp_path: Path):
    tokenizer = byte_level(tmp_path, splits(RULES[name]), nfc=name == "gpt-2")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    save(tokenizer, tmp_path, json.loads((tmp_path / "tokenizer_config.json").read_text()))
    vocab = load_vocab(vocabulary_of(tmp_path, tokenizer.get_vocab_size()), tmp_path / "v.gguf")
    start, end = (tokenizer.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>"))
    found = hidden_and_encoded(vocab, "<|im_start|>user\n", content, "<|im_end|>")
    tokenizer.encode_special_tokens = True
    inner = tokenizer.encode(f"user\n{content}", add_special_tokens=False).ids
    assert found == [start, *inner, end]
