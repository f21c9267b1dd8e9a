"""okno's vocabularies against transformers' own tokenizers of the same folder."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers.processors import TemplateProcessing  # noqa: E402

from okno.convert.vocabulary import vocabulary_of  # noqa: E402
from okno.inspect.pretokenizers import KNOWN  # noqa: E402
from tests.convert.sampled_texts import sampled_texts  # noqa: E402
from tests.convert.trained import byte_level, save, splits  # noqa: E402
from tests.convert.vocab_engine import load_vocab  # noqa: E402

NAMES = ("<|bos|>", "<|im_end|>")
CLASSES = ("LlamaTokenizerFast", "PreTrainedTokenizerFast", None)


@pytest.mark.parametrize(
    ("single", "tokenizer_class"),
    list(product(("$A", "<|bos|> $A", "<|bos|> $A <|im_end|>"), CLASSES)),
)
@pytest.mark.parametrize("flag", [None, True, False])
def test_ids_with_special_tokens_are_those_of_transformers(
    single: str, tokenizer_class: str | None, flag: bool | None, tmp_path: Path
):
    tokenizer = byte_level(tmp_path, splits(next(iter(KNOWN))))
    used = [(name, tokenizer.token_to_id(name)) for name in NAMES if name in single]
    tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=used)
    config: dict[str, Any] = {"bos_token": NAMES[0], "eos_token": NAMES[1]}
    config |= {"tokenizer_class": tokenizer_class, "add_bos_token": flag, "add_eos_token": flag}
    save(tokenizer, tmp_path, {key: value for key, value in config.items() if value is not None})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    fields = vocabulary_of(tmp_path, tokenizer.get_vocab_size())
    ours = load_vocab(fields, tmp_path / "vocab.gguf")
    for text in sampled_texts(200):
        assert ours.encode(text, add_special=True, parse_special=True) == theirs(text)["input_ids"]
