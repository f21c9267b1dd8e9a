"""Byte-level BPE by the `tokenizers` library, where llama.cpp does not keep to the rules.

Its regular expressions know no case, combining marks, digits or wide spaces beyond ASCII, and a
long word overflows the stack of std::regex (docs/tokenizers.md). The rules are those of the name in
`tokenizer.ggml.pre` (okno/inspect/pretokenizers.py), tokens and merges those of the model file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from okno.inspect.gguf_texts import texts_of
from okno.inspect.pretokenizers import PreTokenizer, library_rules
from okno.inspect.source import LocalSource

# From the right by threes; the library looks at all the digits from each of them on.
BY_THREES, MOST_DIGITS = r"split (?=(\d{3})+(?!\d))", 99
_MANY_DIGITS = re.compile(rf"\d{{{MOST_DIGITS + 1},}}")


class LibraryEncoder:
    """Thread-safe; releases the GIL while it works, not while it is built (0.2 s for 131,072
    tokens). Merges of tokens that are not there are left out: the library refuses them."""

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Iterable[tuple[str, str]],
        rules: Sequence[str],
        pre: PreTokenizer,
    ) -> None:
        ids = {text: token for token, text in enumerate(tokens)}
        known = [
            (left, right) for left, right in merges
            if left in ids and right in ids and left + right in ids
        ]  # fmt: skip
        self._tokenizer = Tokenizer(models.BPE(ids, known, ignore_merges=pre.whole_words))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_step(rule) for rule in rules])
        self._by_threes = BY_THREES in rules

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, added tokens in it read as text."""
        cut = [self._cut(text) for text in texts]
        flat = [part for parts in cut for part in parts]
        found = iter(self._tokenizer.encode_batch_fast(flat, add_special_tokens=False))
        return [[token for _ in parts for token in next(found).ids] for parts in cut]

    def _cut(self, text: str) -> list[str]:
        return list(_at_threes(text)) if self._by_threes else [text]


def library_encoder(
    name: str, tokens: Callable[[], Sequence[str]], model: Path
) -> LibraryEncoder | None:
    """For the pre-tokenizer `name` and the merges in the file `model`; None where the engine's own
    is exact. Raises ModelUnusable."""
    found = library_rules(name)
    if found is None:
        return None
    with closing(LocalSource(model)) as source:
        merges = texts_of(source, "tokenizer.ggml.merges")
    texts = (merge.decode(errors="replace").partition(" ") for merge in merges)
    return LibraryEncoder(tokens(), ((left, right) for left, _, right in texts), *found)


def _step(rule: str) -> pre_tokenizers.PreTokenizer:
    """The library's step for a rule as okno/inspect/pretokenizers.py spells it."""
    if rule == "bytes":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if rule == "punctuation contiguous":
        return pre_tokenizers.Punctuation("contiguous")
    return pre_tokenizers.Split(Regex(rule.removeprefix("split ")), "isolated")


def _at_threes(text: str) -> Iterator[str]:
    """`text` in parts, cut inside long runs of digits where the rule BY_THREES cuts anyway."""
    start = 0
    for run in _MANY_DIGITS.finditer(text):
        first = run.end() - (run.end() - run.start() - 1) // MOST_DIGITS * MOST_DIGITS
        yield text[start:first]
        for at in range(first, run.end() - MOST_DIGITS, MOST_DIGITS):
            yield text[at : at + MOST_DIGITS]
        start = run.end() - MOST_DIGITS
    yield text[start:]
