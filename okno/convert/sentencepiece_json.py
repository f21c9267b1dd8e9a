"""SentencePiece-like BPE of a tokenizer.json that comes without its tokenizer.model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from okno.convert.byte_level import vocabulary
from okno.convert.merges import Merge, merges_of
from okno.convert.sentencepiece_model import BPE, SentencePieceModel
from okno.convert.space_rules import SpacePrefix, shown_rules, space_prefix_of
from okno.convert.token_list import Token, TokenType
from okno.convert.tokenizer_files import TokenizerJson
from okno.core.errors import ModelUnusable

BYTE_PREFIX = "<0x"


def model_of_json(tokenizer: TokenizerJson, where: str) -> SentencePieceModel:
    """The SentencePiece model that a tokenizer.json was made from: its scores follow from the
    ranks of its merges. Raises ModelUnusable where no SentencePiece model does the same."""
    vocab = vocabulary(tokenizer.model, where)
    merges = merges_of(tokenizer.model.merges, vocab, where)
    prefix = space_prefix_of(tokenizer)
    if prefix is None:
        said = shown_rules(tokenizer)
        raise _otherwise(where, f"treats spaces by {said}" if said else "has no rules for spaces")
    if not tokenizer.model.byte_fallback:
        raise _otherwise(where, "writes characters that it does not know as one unknown token")
    _check_merges(vocab, merges, where)
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        scores.setdefault(left + right, float(-rank - 1))
    pieces = {id_: _token(text, scores, tokenizer.model.unk_token) for text, id_ in vocab.items()}
    if sorted(pieces) != list(range(len(pieces))):
        raise ModelUnusable(f"{where}: the ids of its vocabulary have holes. Get the file again.")
    return SentencePieceModel(
        tuple(pieces[id_] for id_ in range(len(pieces))),
        kind=BPE,
        byte_fallback=True,
        add_space_prefix=prefix is SpacePrefix.ALWAYS,
        remove_extra_spaces=False,
    )


def _token(text: str, scores: Mapping[str, float], unknown: str | None) -> Token:
    if text == unknown:
        return Token(text, TokenType.UNKNOWN)
    if len(text) == 6 and text.startswith(BYTE_PREFIX) and text.endswith(">"):
        return Token(text, TokenType.BYTE)
    return Token(text, TokenType.NORMAL, scores.get(text, float(-len(scores) - 1)))


def _check_merges(vocab: Mapping[str, int], merges: Sequence[Merge], where: str) -> None:
    """Whether merging by the score of the result is merging by the rank of the pair.

    It is, when all pairs that make one token follow one another, and when every pair of tokens
    that makes a token may be merged.
    """
    made = [left + right for left, right in merges]
    runs = [token for token, _ in groupby(made)]
    if len(runs) != len(set(runs)):
        raise _otherwise(where, "ranks the pairs that make one token apart from each other")
    known = set(merges)
    for token in runs:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair[0] in vocab and pair[1] in vocab and pair not in known:
                raise _otherwise(where, f"does not merge {pair[0][:40]!r} with {pair[1][:40]!r}")


def _otherwise(where: str, what: str) -> ModelUnusable:
    return ModelUnusable(
        f"{where} {what}, which the engine does not do for this kind of vocabulary. Put the "
        "model's tokenizer.model beside it if there is one, or take a GGUF of this model."
    )
