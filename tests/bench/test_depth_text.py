from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.bench import depth_text
from okno.bench.depth_demo import default_documents, flat_chat, returning_chat
from okno.bench.depth_text import read_text, text_for
from okno.core.errors import BadSetting

# What the shipped text tells and comes back to, at distances from a page to the whole story.
RETURNING = (
    "двести семнадцать", "two hundred and seventeen", "двадцать четыре секунды",
    "twenty-four seconds", "pear wood", "third blue flowerpot", "K-48", "К-48", "5-19-07",
    "триста сорок граммов", "three hundred and forty grams", "fourteenth of November 1911",
    "Twenty minutes past three", "copper heron at noon", "медная цапля в полдень", "box 3081",
    "три тысячи восемьдесят один", "forty-three metres", "сорок три метра",
    "восемьдесят шесть рублей", "eighty-six roubles", "шесть тысяч двести пятнадцать",
    "Semaphore", "Семафор", "12 Quince Lane", "Тула, 1887", "полтора фунта без четверти",
    "Дядя Ваня", "seven hundred and forty-two",
)  # fmt: skip


def shipped() -> str:
    (document,) = text_for(None, special=False, is_demo=False).documents
    return document


def distances(text: str, fact: str) -> list[int]:
    """Characters between mentions that follow each other."""
    low, at, places = text.lower(), 0, []
    while (at := low.find(fact.lower(), at)) >= 0:
        places.append(at)
        at += len(fact)
    return [b - a for a, b in pairwise(places)]


def test_the_shipped_text_is_russian_and_english_and_of_some_length() -> None:
    text = shipped()
    cyrillic = sum("а" <= letter.lower() <= "я" for letter in text)
    latin = sum("a" <= letter.lower() <= "z" for letter in text)
    assert 60_000 <= len(text.encode()) <= 120_000
    assert 0.4 < cyrillic / latin < 1.2


def test_facts_of_the_shipped_text_return_at_every_distance() -> None:
    text = shipped()
    found = sorted(d for fact in RETURNING for d in distances(text, fact))
    for shortest in (500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000):
        assert sum(shortest <= d < 2 * shortest for d in found) >= 2, shortest
    assert all(distances(text, fact) for fact in RETURNING)


@pytest.mark.parametrize("lang", ["en", "ru"])
@given(seed=st.integers(0, 10**6), distance=st.sampled_from((60, 350, 900)))
def test_a_returning_chat_answers_what_it_told_at_that_distance(
    lang: str, seed: int, distance: int
) -> None:
    chat = returning_chat(random.Random(seed), lang, (distance,) * 3)
    assert len(chat.answers) >= 3
    for start, end, back in chat.answers:
        code = chat.text[start:end]
        assert code.isdigit()
        assert back is not None
        assert distance <= back <= distance + 900
        assert chat.text[start - back - 4 : start - back] == code


@pytest.mark.parametrize("lang", ["en", "ru"])
@given(seed=st.integers(0, 10**6))
def test_a_flat_chat_asks_only_for_what_was_never_told(lang: str, seed: int) -> None:
    chat = flat_chat(random.Random(seed), lang)
    assert chat.answers
    assert all(back is None for _, _, back in chat.answers)


def test_the_demo_reads_chats_with_its_special_tokens() -> None:
    text = text_for(None, special=False, is_demo=True)
    assert text.special
    assert text.documents == default_documents()
    assert all(document.startswith("<|bos|><|user|>") for document in text.documents)


def test_form_feeds_part_documents_and_empty_ones_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "two.txt"
    file.write_text("\ufeffone\f\n\ftwo", encoding="utf-8")
    assert read_text(file).documents == ("one", "two")


def test_the_identity_is_of_the_text_not_of_its_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    for file in (first, second):
        file.write_text("the same text", encoding="utf-8")
    assert read_text(first).identity == read_text(second).identity
    assert read_text(first).identity != read_text(first, special=True).identity


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n\f\n", "is empty"),
        ("привет".encode("cp1251"), "not UTF-8: byte 0xef at offset 0.*iconv"),
        (b"abc\xff", "byte 0xff at offset 3"),
        (b"\xef\xbb\xbfabc\xff", "byte 0xff at offset 6"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(data)
    with pytest.raises(BadSetting, match=says):
        read_text(file)


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="directory"):
        read_text(tmp_path)
    with pytest.raises(BadSetting, match="No such file"):
        read_text(tmp_path / "none")


def test_a_text_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_text, "MAX_TEXT_BYTES", 2**20)
    with pytest.raises(BadSetting, match="larger than 1 MiB"):
        read_text(Path("/dev/zero"))
