"""The tokenizer of a Hugging Face folder as the fields of a GGUF file."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from pathlib import Path

import msgspec

from okno.convert.byte_level import byte_level_fields
from okno.convert.chat_templates import chat_template_fields
from okno.convert.fields import Field
from okno.convert.sentencepiece_fields import sentencepiece_fields
from okno.convert.special_tokens import Declared, special_fields
from okno.convert.tokenizer_files import (
    TokenizerFiles,
    TokenizerJson,
    added_tokens,
    read_json,
    read_text,
    read_tokenizer_files,
)
from okno.convert.vocab_and_merges import tokenizer_of
from okno.core.errors import ModelNotFound


def vocabulary_of(folder: Path, n_vocab: int) -> dict[str, Field]:
    """Every `tokenizer.*` field of the model in `folder`, for `n_vocab` embeddings: the kind of
    tokenizer, its rules, tokens with types and scores, merges, special tokens, chat templates.

    Ids that no token has are filled with unused tokens. Raises ModelNotFound without a tokenizer,
    ModelUnusable for one that is not sound or that the engine cannot reproduce exactly.
    """
    files = _with_tokenizer(read_tokenizer_files(folder))
    if files.tokenizer is not None and is_byte_level(files.tokenizer):
        fields, declared = byte_level_fields(files, n_vocab), Declared({}, adds_bos=False)
    else:
        fields, declared = sentencepiece_fields(files, n_vocab)
    tokens = fields["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    texts = tuple(str(token) for token in tokens)
    return (
        fields
        | special_fields(files, texts, declared)
        | strip_fields(files, set(texts))
        | chat_template_fields(files)
    )


def _with_tokenizer(files: TokenizerFiles) -> TokenizerFiles:
    """With a tokenizer made of vocab.json and merges.txt where there is no other."""
    if files.tokenizer is not None or files.sentencepiece is not None:
        return files
    vocab = read_json(files.folder / "vocab.json", dict[str, int])
    merges = read_text(files.folder / "merges.txt")
    if vocab is None or merges is None:
        raise ModelNotFound(
            f"{files.folder} has no tokenizer: neither tokenizer.json nor tokenizer.model is "
            "there. A model cannot read or write text without one: get these files from where the "
            "weights are from (often the base model has them) and put them into the folder."
        )
    added = list(added_tokens(files))
    made = tokenizer_of(vocab, merges, added, files.config, str(files.folder))
    return replace(files, tokenizer=made)


def strip_fields(files: TokenizerFiles, texts: Set[str]) -> dict[str, Field]:
    """Added tokens that swallow the white space after them (Phi-3's `<|user|>`, `<|end|>`).

    llama.cpp does that for models named "phi-3" only; okno's engine reads this field.
    """
    stripping = {
        token.content: None
        for token in added_tokens(files)
        if token.rstrip and token.content in texts
    }
    if not stripping:
        return {}
    return {"tokenizer.okno.strip_after": msgspec.json.encode(list(stripping)).decode()}


def is_byte_level(tokenizer: TokenizerJson) -> bool:
    """Whether tokens are written in GPT-2's characters for bytes."""
    pre = tokenizer.pre_tokenizer or {}
    steps = pre.get("pretokenizers") if pre.get("type") == "Sequence" else [pre]
    kinds = (
        [step.get("type") for step in steps if isinstance(step, dict)]
        if isinstance(steps, list)
        else []
    )
    return "ByteLevel" in kinds
