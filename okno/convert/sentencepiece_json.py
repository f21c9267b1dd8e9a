"""SentencePiece-like BPE of a tokenizer.json that comes without its tokenizer.model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from okno.convert.byte_level import vocabulary
from okno.convert.merges import Merge, merges_of
from okno.convert.pretokenizer_rules import rules_of
from okno.convert.sentencepiece_model import BPE, SentencePieceModel
from okno.convert.token_list import Token, TokenType
from okno.convert.tokenizer_files import TokenizerJson
from okno.core.errors import ModelUnusable

BYTE_PREFIX = "<0x"


def model_of_json(tokenizer: TokenizerJson, where: str) -> SentencePieceModel:
    """The SentencePiece model that a tokenizer.json was made from: its scores follow from the
    ranks of its merges. Raises ModelUnusable where no SentencePiece model does the same."""
    vocab = vocabulary(tokenizer.model, where)
    merges = merges_of(tokenizer.model.merges, vocab, where)
    prefix = _space_prefix(tokenizer, where)
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
        add_space_prefix=prefix,
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


def _space_prefix(tokenizer: TokenizerJson, where: str) -> bool:
    """Whether a text gets a space before it. Raises ModelUnusable for rules of another kind."""
    steps = tuple(_normalizers(tokenizer.normalizer))
    rules = rules_of(tokenizer.pre_tokenizer)
    replaced, prepended = "replace ' ' by '▁'", "prepend '▁'"
    known = {
        ((prepended, replaced), ()): True,
        ((replaced,), ()): False,
        ((replaced,), ("split at ' ', mergedwithprevious",)): False,
        ((), ("metaspace always",)): True,
        ((), ("metaspace never",)): False,
        ((), ("metaspace first",)): True,
    }
    found = known.get((steps, rules))
    if found is None:
        raise _otherwise(where, f"treats spaces by the rules {[*steps, *rules]}")
    return found


def _normalizers(normalizer: Mapping[str, object] | None) -> list[str]:
    """Each step in one spelling."""
    if normalizer is None:
        return []
    kind = normalizer.get("type")
    if kind == "Sequence":
        parts = normalizer.get("normalizers")
        return [
            step
            for part in (parts if isinstance(parts, list) else [])
            for step in _normalizers(part)
        ]
    if kind == "Prepend":
        return [f"prepend {normalizer.get('prepend')!r}"]
    if kind == "Replace":
        pattern = normalizer.get("pattern")
        text = pattern.get("String") if isinstance(pattern, dict) else None
        return [f"replace {text!r} by {normalizer.get('content')!r}"]
    return [f"<{kind}>"]


def _otherwise(where: str, what: str) -> ModelUnusable:
    return ModelUnusable(
        f"{where} {what}, which the engine does not do for this kind of vocabulary. Put the "
        "model's tokenizer.model beside it if there is one, or take a GGUF of this model."
    )
