"""Vocabularies of any size without training: enough for tokenize and detokenize to be exact."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass

CYRILLIC = "АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдеёжзийклмнопрстуфхцчшщъыьэюя"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Vocab:
    """A tokenizer as GGUF stores it. `special` maps roles (bos, eos, unk, ...) to token ids;
    `control` are the ids that carry no text."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    control: frozenset[int]
    special: dict[str, int]
    chat_template: str


def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte (openai/gpt-2 encoder.py, bytes_to_unicode)."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = itertools.count(0x100)
    return {b: chr(b) if b in kept else chr(next(spare)) for b in range(256)}


def byte_bpe(n_vocab: int) -> Vocab:
    """Byte-level BPE of exactly n_vocab tokens: 4 special, 256 bytes, the Cyrillic letters, then
    all strings of 2, 3, 4, ... small Latin letters, each merged from its prefix and last letter.

    Raises ValueError below 260 tokens.
    """
    special = ("<|bos|>", "<|im_end|>", "<|im_start|>", "<|pad|>")
    base = [*special, *byte_characters().values()]
    if n_vocab < len(base):
        raise ValueError(f"a byte-level vocabulary has at least {len(base)} tokens, not {n_vocab}")
    pairs = list(itertools.islice(_merges(), n_vocab - len(base)))
    return Vocab(
        model="gpt2",
        pre="qwen2",
        tokens=(*base, *(left + right for left, right in pairs)),
        merges=tuple(f"{left} {right}" for left, right in pairs),
        control=frozenset(range(len(special))),
        special={"bos": 0, "eos": 1, "eot": 1, "padding": 3},
        chat_template=CHATML,
    )


def wordpiece(n_vocab: int) -> Vocab:
    """A BERT vocabulary of exactly n_vocab tokens: 5 special, every character at the start of a
    word (marked by U+2581, as llama.cpp stores it) and inside one, then Latin letter strings.

    Raises ValueError when the characters alone do not fit.
    """
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    characters = string.ascii_lowercase + string.digits + string.punctuation + CYRILLIC[33:]
    base = [*special, *("\u2581" + c for c in characters), *characters]
    if n_vocab < len(base):
        raise ValueError(f"this wordpiece vocabulary has at least {len(base)} tokens")
    words = ("\u2581" + left + right for left, right in _letters())
    return Vocab(
        model="bert",
        pre="default",
        tokens=(*base, *itertools.islice(words, n_vocab - len(base))),
        merges=(),
        control=frozenset(range(len(special))),
        special={"padding": 0, "unknown": 1, "cls": 2, "bos": 2, "seperator": 3, "eos": 3,
                 "mask": 4},
        chat_template="",
    )  # fmt: skip


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs to merge, in rank order, as byte characters."""
    characters = byte_characters()
    for letter in CYRILLIC:
        first, second = (characters[b] for b in letter.encode())
        yield first, second
    yield from _letters()


def _letters() -> Iterator[tuple[str, str]]:
    """("a", "a"), ("a", "b"), ... ("aa", "a"), ...: prefix and last letter, shorter first."""
    for length in itertools.count(2):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield "".join(letters[:-1]), letters[-1]
