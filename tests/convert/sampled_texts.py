"""Texts that try a tokenizer: drawn with a seed from pools of what makes tokenizers differ."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator

POOLS: dict[str, list[str]] = {
    "russian": ["привет", "Мир", "съешь", "ещё", "Ёлка", "РОССИЯ", "не", "и", "мягких"],
    "english": ["hello", "World", "don't", "I'LL", "we've", "HTTPServer", "x", "the", "'S"],
    "cased": ["ПриветМир", "неЁлка", "éÀ", "straßeÄ"],
    "chinese": ["我", "想在", "中文", "，", "。", "日本語", "カタカナ", "ひらがな", "한국어"],
    "emoji": ["😀", "👨‍👩‍👧", "🏳️‍🌈", "✅", "\ufe0f", "\u200d", "🇷🇺"],
    "spaces": [" ", "  ", "   ", " " * 17, "\t", "\n", "\n\n", "\r\n", " \n", "\n  "],
    "odd spaces": ["\u00a0", "\u3000", "\u2003", "\u200b", "\x0b", "\x85", "\u2028"],
    "digits": ["1", "12", "123", "1234567", "3.14", "2026", "½", "Ⅷ", "²"],
    "odd digits": ["\u0663", "\u0967\u0968\u0969\u096a", "\uff11\uff12\uff13\uff14"],
    "signs": [".", "...", "!", "«", "»", "—", "[]", "{}", "==", "//", "'", '"', "`", "~", "$"],
    "marks": ["e\u0301", "\u0301", "и\u0306", "е\u0308", "ी", "क्षि", "שָׁ", "ภาษาไทย"],
    "right to left": ["مرحبا", "שלום", "\u200f", "\u202e"],
    "controls": ["\x01", "\x1f", "\x7f", "\x80", "\ufeff", "\ufffd", "\ue000", "\U000e0001"],
    "code": ["def f(x):\n    return x\n", "for (int i=0;i<n;i++)", "\t\tif (a) {", "</s>", "<s>"],
    "added": ["<|bos|>", "<|im_end|>", "<|im_start|>user\n", "<tool_call>", "<table>"],
}
MAX_ASSIGNED = 0x33480  # beyond are only variation selectors and private use


def sampled_texts(
    count: int, seed: int = 1, without: frozenset[str] = frozenset()
) -> Iterator[str]:
    """`count` texts of 1 to 12 pieces out of 1 to 4 pools, some with any characters of Unicode
    (unassigned ones and halves of surrogate pairs are none of them)."""
    draw = random.Random(seed)
    names = [name for name in POOLS if name not in without]
    for _ in range(count):
        pools = draw.sample(names, draw.randint(1, 4))
        pieces = [draw.choice(POOLS[draw.choice(pools)]) for _ in range(draw.randint(1, 12))]
        if draw.random() < 0.2:
            pieces.insert(draw.randint(0, len(pieces)), any_character(draw))
        yield "".join(pieces)


def any_character(draw: random.Random) -> str:
    while True:
        character = chr(draw.randrange(1, MAX_ASSIGNED))
        if unicodedata.category(character) not in ("Cn", "Cs"):
            return character
