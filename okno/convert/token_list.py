"""The tokens of a vocabulary by id, as GGUF lists them: text, type, score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from okno.core.errors import ModelUnusable

MAX_TOKENS = 4_000_000  # the largest known vocabulary has 0.4 million


class TokenType(IntEnum):
    """enum llama_token_type of llama.cpp's include/llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Token:
    """text: as the engine matches it. score: of a SentencePiece model; 0 for byte-level BPE."""

    text: str
    type: TokenType = TokenType.NORMAL
    score: float = 0.0


def padded(
    tokens: dict[int, Token], n_vocab: int, where: str, filler_score: float = 0.0
) -> list[Token]:
    """`n_vocab` tokens: an id that has none gets an unused one named `[PAD<id>]`.

    Raises ModelUnusable for an id beyond `n_vocab`, and for two ids of one text (the engine looks
    tokens up by text, and aborts when two are equal).
    """
    if n_vocab > MAX_TOKENS:
        raise ModelUnusable(
            f"{where}: the model announces a vocabulary of {n_vocab} tokens; at most {MAX_TOKENS} "
            "are supported. Is vocab_size in config.json right?"
        )
    beyond = [(id_, token) for id_, token in tokens.items() if not 0 <= id_ < n_vocab]
    if beyond:
        raise _too_many(where, beyond, n_vocab)
    taken = {token.text for token in tokens.values()}
    listed = [tokens.get(id_) or _unused(id_, taken, filler_score) for id_ in range(n_vocab)]
    _check_unique(listed, where)
    return listed


def _unused(id_: int, taken: set[str], score: float) -> Token:
    name = f"[PAD{id_}]"
    while name in taken:
        name = f"[{name}]"
    taken.add(name)
    return Token(name, TokenType.UNUSED, score)


def _check_unique(listed: Iterable[Token], where: str) -> None:
    first: dict[str, int] = {}
    for id_, token in enumerate(listed):
        if not token.text:
            raise ModelUnusable(
                f"{where}: the token {id_} has no text, and the engine needs one for every token. "
                "Give it a name of its own in the tokenizer's files."
            )
        if first.setdefault(token.text, id_) != id_:
            raise ModelUnusable(
                f"{where}: the tokens {first[token.text]} and {id_} are both {token.text[:40]!r}. "
                "The engine finds tokens by their text, so each may exist once: remove one of "
                "them from the tokenizer's files."
            )


def _too_many(where: str, beyond: list[tuple[int, Token]], n_vocab: int) -> ModelUnusable:
    id_, token = max(beyond)
    return ModelUnusable(
        f"{where}: {len(beyond)} token(s) have ids beyond the model's vocabulary of {n_vocab}, as "
        f"{token.text[:40]!r} with {id_}. The model has no embedding for them. Are these tokenizer "
        "files of another model? Take those that were published with these weights."
    )
