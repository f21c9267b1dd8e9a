"""Small real tokenizers, trained here and written as the files of a Hugging Face folder."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)  # fmt: skip

from okno.inspect.pretokenizers import FALCON
from tests.convert.sampled_texts import sampled_texts

OKNO = Path(__file__).parents[2] / "okno"
SPECIAL = ["<|bos|>", "<|im_end|>", "<|im_start|>"]
LLAMA2 = {
    "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False, "add_dummy_prefix": True, "split_digits": True,
    "allow_whitespace_only_pieces": True,
}  # fmt: skip
GEMMA = LLAMA2 | {
    "add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3,
    "user_defined_symbols": ["<table>", "\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁"],
    "control_symbols": ["<end_of_turn>"],
}  # fmt: skip
UNIGRAM = {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"}


@cache
def corpus() -> list[str]:
    """Russian and English prose, code, and some of everything the tests ask about."""
    prose = (OKNO / "data" / "depth_ru_en.txt").read_text(encoding="utf-8")
    code = (OKNO / "inspect" / "gguf.py").read_text(encoding="utf-8")
    others = sampled_texts(1500, seed=9, without=frozenset({"code", "added"}))
    return [*(prose + code).splitlines(keepends=True), *others]


def splits(rules: Sequence[str]) -> list[pre_tokenizers.PreTokenizer]:
    """tokenizers' own steps for canonical rules (okno/convert/pretokenizer_rules.py)."""
    if tuple(rules) == FALCON:
        return [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    cuts = [rule.removeprefix("split ") for rule in rules if rule.startswith("split ")]
    return [
        *(pre_tokenizers.Split(Regex(cut), "isolated") for cut in cuts),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def byte_level(
    folder: Path,
    steps: Sequence[pre_tokenizers.PreTokenizer],
    *,
    whole_words: bool = False,
    nfc: bool = False,
) -> Tokenizer:
    """Train byte-level BPE with these steps and write it to `folder`."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=1600, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    save(tokenizer, folder, {"bos_token": "<|bos|>", "eos_token": "<|im_end|>"})
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def sentence_piece(folder: Path, options: dict[str, Any]) -> sentencepiece.SentencePieceProcessor:
    """Train a SentencePiece model and write its tokenizer.model to `folder`."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line.strip("\n") for line in corpus() if "\x00" not in line),
        model_writer=written, vocab_size=1400, hard_vocab_limit=False, num_threads=1,
        minloglevel=2, **options,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
