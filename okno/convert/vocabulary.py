"""The tokenizer of a Hugging Face folder as the fields of a GGUF file."""

from __future__ import annotations

from pathlib import Path

from okno.convert.byte_level import byte_level_fields
from okno.convert.chat_templates import chat_template_fields
from okno.convert.fields import Field
from okno.convert.sentencepiece_fields import sentencepiece_fields
from okno.convert.special_tokens import Declared, special_fields
from okno.convert.tokenizer_files import TokenizerJson, read_tokenizer_files


def vocabulary_of(folder: Path, n_vocab: int) -> dict[str, Field]:
    """Every `tokenizer.*` field of the model in `folder`, for `n_vocab` embeddings: the kind of
    tokenizer, its rules, tokens with types and scores, merges, special tokens, chat templates.

    Ids that no token has are filled with unused tokens. Raises ModelNotFound without a tokenizer,
    ModelUnusable for one that is not sound or that the engine cannot reproduce exactly.
    """
    files = read_tokenizer_files(folder)
    if files.tokenizer is not None and is_byte_level(files.tokenizer):
        fields, declared = byte_level_fields(files, n_vocab), Declared({}, adds_bos=False)
    else:
        fields, declared = sentencepiece_fields(files, n_vocab)
    tokens = fields["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    texts = tuple(str(token) for token in tokens)
    return fields | special_fields(files, texts, declared) | chat_template_fields(files)


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
