"""The merges of a BPE vocabulary: checked, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from okno.core.errors import ModelUnusable

MAX_MERGES = 8_000_000
Merge = tuple[str, str]


def merges_of(
    stored: Sequence[str | tuple[str, str]], vocab: Mapping[str, int], where: str
) -> list[Merge]:
    """The merges as pairs, in rank order, from either stored form ("a b" or ["a", "b"]).

    Raises ModelUnusable for one that is no pair, holds a space (GGUF stores pairs with a space
    between), or names a token that the vocabulary lacks.
    """
    if len(stored) > MAX_MERGES:
        raise ModelUnusable(
            f"{where} has {len(stored)} merges; at most {MAX_MERGES} are supported."
        )
    merges = [_pair(merge, rank, where) for rank, merge in enumerate(stored)]
    for rank, (left, right) in enumerate(merges):
        for text in (left, right, left + right):
            if text not in vocab:
                raise ModelUnusable(
                    f"{where}: merge {rank + 1} ({left[:40]!r} with {right[:40]!r}) needs the "
                    f"token {text[:80]!r}, which the vocabulary does not have. The file is "
                    "damaged, or was put together from two: get it again."
                )
    return merges


def _pair(merge: str | tuple[str, str], rank: int, where: str) -> Merge:
    parts = merge.split(" ") if isinstance(merge, str) else list(merge)
    if len(parts) != 2 or not all(parts) or any(" " in part for part in parts):
        raise ModelUnusable(
            f"{where}: merge {rank + 1} is {merge!r:.80}, not two tokens without spaces. "
            "The file is damaged: get it again."
        )
    return parts[0], parts[1]


def check_whole_words(vocab: Iterable[str], merges: Sequence[Merge], where: str) -> None:
    """Whether the words of `vocab` (without added tokens) are found by merging, too.

    tokenizer.json may say to look words up before merging (`ignore_merges`) where the engine does
    not, or the other way round. That is the same as long as merging the characters of each token
    gives that token. Raises ModelUnusable where it does not.
    """
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    for token in vocab:
        if merged(token, ranks) != [token]:
            raise ModelUnusable(
                f"{where}: its `ignore_merges` is not what the engine does for these rules, and "
                f"the token {token[:40]!r} is cut otherwise without it. Take a GGUF of this model."
            )


def merged(text: str, ranks: Mapping[Merge, int]) -> list[str]:
    """What BPE makes of the characters of `text`: the lowest rank first, the leftmost of it."""
    parts = list(text)
    while len(parts) > 1:
        pairs = [(ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(parts))]
        rank, at = min(pairs)
        if rank == len(ranks):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
