"""SentencePiece vocabularies as GGUF fields, from tokenizer.model or from a tokenizer.json alone.

llama.cpp has two engines for them (src/llama-vocab.cpp): `llama` merges neighbours by the score of
what they make, which is SentencePiece's BPE; `t5` finds the best path, which is its unigram model.
"""

from __future__ import annotations

from okno.convert.byte_level import as_token
from okno.convert.fields import Field
from okno.convert.sentencepiece_json import model_of_json
from okno.convert.sentencepiece_model import (
    BPE,
    UNIGRAM,
    SentencePieceModel,
    parse_sentencepiece,
)
from okno.convert.space_rules import SpacePrefix, space_prefix_of
from okno.convert.special_tokens import Declared
from okno.convert.token_list import Token, TokenType, padded
from okno.convert.tokenizer_files import TokenizerFiles, added_tokens
from okno.core.errors import ModelUnusable

UNUSED_SCORE = -10_000.0  # of fillers and added tokens: never merged into
BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def sentencepiece_fields(files: TokenizerFiles, n_vocab: int) -> tuple[dict[str, Field], Declared]:
    """model, pre, tokens, scores, token_type and the rules for spaces; and what the model declares.
    Raises ModelUnusable."""
    if files.sentencepiece is not None:
        where = str(files.folder / "tokenizer.model")
        model = parse_sentencepiece(files.sentencepiece, where)
    else:
        assert files.tokenizer is not None
        where = str(files.folder / "tokenizer.json")
        model = model_of_json(files.tokenizer, where)
    check_supported(model, where)
    listed = _tokens(model, files, n_vocab, where)
    prefix = _space_prefix(model, files)
    fields: dict[str, Field] = {
        "tokenizer.ggml.model": "llama" if model.kind == BPE else "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tuple(token.text for token in listed),
        "tokenizer.ggml.scores": tuple(float(token.score) for token in listed),
        "tokenizer.ggml.token_type": tuple(int(token.type) for token in listed),
        "tokenizer.ggml.add_space_prefix": prefix is SpacePrefix.ALWAYS,
    }
    if prefix is SpacePrefix.FIRST:
        fields["tokenizer.okno.first_space"] = True
    if model.kind == UNIGRAM:
        fields["tokenizer.ggml.remove_extra_whitespaces"] = model.remove_extra_spaces
        if model.charsmap:
            fields["tokenizer.ggml.precompiled_charsmap"] = model.charsmap
    return fields, Declared(model.ids, adds_bos=files.tokenizer is None)


def check_supported(model: SentencePieceModel, where: str) -> None:
    """Raises ModelUnusable for what the engine would do otherwise than SentencePiece."""
    if model.kind not in (BPE, UNIGRAM):
        raise _unsupported(where, "is a SentencePiece model of words or characters")
    if model.space_as_suffix or not model.escape_spaces:
        raise _unsupported(where, "puts spaces after words, or does not mark them")
    bytes_there = {piece.text for piece in model.pieces if piece.type == TokenType.BYTE}
    if model.kind == BPE and not bytes_there >= BYTES:
        raise _unsupported(where, "has no tokens for single bytes, which the engine needs")
    if model.kind == BPE and (model.charsmap or model.remove_extra_spaces):
        raise _unsupported(where, "normalises text before merging")
    if model.kind == UNIGRAM and not model.remove_extra_spaces:
        raise _unsupported(where, "is a unigram model that keeps runs of spaces")
    if model.kind == UNIGRAM and model.byte_fallback:
        raise _unsupported(where, "is a unigram model that writes unknown characters as bytes")
    if model.kind == UNIGRAM and len(model.charsmap) in range(1, 5):
        raise _unsupported(where, "has a normalisation table that is cut short")


def _unsupported(where: str, what: str) -> ModelUnusable:
    return ModelUnusable(
        f"{where} {what}. The engine would read text otherwise than the model was trained on. "
        "Take a GGUF of this model, if its publisher has one."
    )


def _tokens(
    model: SentencePieceModel, files: TokenizerFiles, n_vocab: int, where: str
) -> list[Token]:
    """The pieces, with added tokens in or behind them, and fillers up to n_vocab."""
    tokens = {id_: _as_matched(piece, model.kind) for id_, piece in enumerate(model.pieces)}
    for added in added_tokens(files):
        held = tokens.get(added.id)
        if held is not None and held.type == TokenType.UNKNOWN and held.text == added.content:
            continue
        if 0 <= added.id < n_vocab:
            tokens[added.id] = as_token(added, UNUSED_SCORE)
    return padded(tokens, n_vocab, where, UNUSED_SCORE)


def _as_matched(piece: Token, kind: int) -> Token:
    """The `llama` engine matches user-defined symbols in the text, where spaces are spaces."""
    if kind == BPE and piece.type == TokenType.USER_DEFINED:
        return Token(piece.text.replace("▁", " "), piece.type, piece.score)
    return piece


def _space_prefix(model: SentencePieceModel, files: TokenizerFiles) -> SpacePrefix:
    """What a tokenizer.json says goes before the SentencePiece model, as in transformers."""
    said = space_prefix_of(files.tokenizer) if files.tokenizer is not None else None
    own = SpacePrefix.ALWAYS if model.add_space_prefix else SpacePrefix.NEVER
    if files.config.add_prefix_space is False:
        return SpacePrefix.NEVER
    if files.config.add_prefix_space and own is SpacePrefix.NEVER:
        own = SpacePrefix.ALWAYS
    return own if said is None else said
