"""Byte-level BPE (GPT-2's kind) of a tokenizer.json as GGUF fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from okno.convert.fields import Field
from okno.convert.merges import Merge, check_whole_words, merges_of
from okno.convert.pretokenizer_rules import is_step, rules_of
from okno.convert.token_list import Token, TokenType, padded
from okno.convert.tokenizer_files import AddedToken, TokenizerFiles, TokenizerModel
from okno.core.errors import ModelUnusable
from okno.inspect.pretokenizers import PreTokenizer, pre_tokenizers_of


def byte_level_fields(files: TokenizerFiles, n_vocab: int) -> dict[str, Field]:
    """model, pre, tokens, token_type and merges. Raises ModelUnusable."""
    tokenizer = files.tokenizer
    assert tokenizer is not None
    where = str(files.folder / "tokenizer.json")
    vocab = vocabulary(tokenizer.model, where)
    merges = merges_of(tokenizer.model.merges, vocab, where)
    pre = _pre_tokenizer(files, vocab, merges, where)
    tokens = {id_: Token(text) for text, id_ in vocab.items()}
    add_tokens(tokens, tokenizer.added_tokens, n_vocab)
    listed = padded(tokens, n_vocab, where)
    composes: dict[str, Field] = (
        {"tokenizer.okno.nfc": True} if normalizers(tokenizer.normalizer) else {}
    )
    return composes | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre.name,
        "tokenizer.ggml.tokens": tuple(token.text for token in listed),
        "tokenizer.ggml.token_type": tuple(int(token.type) for token in listed),
        # The engine wants a list of texts, and reads "" as a merge of nothing.
        "tokenizer.ggml.merges": tuple(f"{left} {right}" for left, right in merges) or ("",),
    }


def vocabulary(model: TokenizerModel, where: str) -> dict[str, int]:
    """Text to id of a BPE model without its added tokens. Raises ModelUnusable."""
    if model.type not in (None, "BPE") or not isinstance(model.vocab, dict) or not model.vocab:
        raise ModelUnusable(
            f"{where} is of the kind {model.type}; a BPE vocabulary is needed here. okno converts "
            "byte-level BPE and SentencePiece tokenizers: take a GGUF of this model."
        )
    marks = [model.continuing_subword_prefix, model.end_of_word_suffix]
    if any(marks):
        raise ModelUnusable(
            f"{where} marks the parts of words with {[mark for mark in marks if mark]}, which the "
            "engine does not do. Take a GGUF of this model."
        )
    first: dict[int, str] = {}
    for text, id_ in model.vocab.items():
        if first.setdefault(id_, text) != text:
            raise ModelUnusable(
                f"{where} gives the id {id_} to both {first[id_][:40]!r} and {text[:40]!r}. "
                "The file is damaged: get it again."
            )
    return model.vocab


def add_tokens(tokens: dict[int, Token], added: Iterable[AddedToken], n_vocab: int) -> None:
    """Put added tokens into `tokens`, in place of what their ids held.

    One beyond `n_vocab` is left out: the model has no embedding for it, so its text is read as
    ordinary text (folders of fine-tuned models often add a `[PAD]` in this way).
    """
    for token in added:
        if 0 <= token.id < n_vocab:
            tokens[token.id] = as_token(token)


def as_token(added: AddedToken, score: float = 0.0) -> Token:
    """Special tokens carry no text of their own; the others are shown, with plain spaces."""
    if added.special or looks_special(added.content):
        return Token(added.content, TokenType.CONTROL, score)
    return Token(added.content.replace("▁", " "), TokenType.USER_DEFINED, score)


def looks_special(text: str) -> bool:
    """Models often do not declare these special, though they are never text
    (llama.cpp's conversion/base.py, does_token_look_special)."""
    pairs = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    framed = any(text.startswith(left) and text.endswith(right) for left, right in pairs)
    return framed or text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")


def _pre_tokenizer(
    files: TokenizerFiles, vocab: Mapping[str, int], merges: Sequence[Merge], where: str
) -> PreTokenizer:
    """The engine's, with the same `ignore_merges`, or one where that cannot make a difference."""
    tokenizer = files.tokenizer
    assert tokenizer is not None
    _check_normalizer(tokenizer.normalizer, where)
    known = pre_tokenizers_of(rules_of(tokenizer.pre_tokenizer), where)
    wanted = tokenizer.model.ignore_merges
    for pre in known:
        if pre.whole_words == wanted:
            return pre
    added = {token.content for token in tokenizer.added_tokens}
    words = [text for text in vocab if text not in added]
    check_whole_words(words, merges, where)
    return known[0]


def _check_normalizer(normalizer: Mapping[str, object] | None, where: str) -> None:
    for name in normalizers(normalizer):
        if name != "NFC":
            raise ModelUnusable(
                f"{where} changes text by {name} before it is cut into tokens, which the engine "
                "does not do for this kind of vocabulary. Take a GGUF of this model."
            )


def normalizers(normalizer: Mapping[str, object] | None) -> list[str]:
    """The kinds of all normalizers, those of sequences one by one."""
    if normalizer is None:
        return []
    if normalizer.get("type") == "Sequence":
        said = normalizer.get("normalizers")
        parts = said if isinstance(said, list) else []
        return [name for part in parts for name in normalizers(part if is_step(part) else {})]
    return [str(normalizer.get("type"))]
