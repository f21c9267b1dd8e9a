"""Words per token are counted with the model's own tokenizer, once."""

from __future__ import annotations

import pytest

from okno.advisor import words
from okno.advisor.words import WORD, texts, words_of
from okno.engines.tokenise import tokenise
from okno.inspect.models import demo_model
from okno.store.database import Database
from tests.advisor.test_planning import machine


def test_words_per_token_are_those_of_the_text_and_its_tokens(tmp_path, monkeypatch):
    path, database = demo_model().path, Database(tmp_path / "okno.db")
    found = {one.language: one.words_per_token.value for one in words_of(path, machine(), database)}
    russian = texts()["Russian"]
    (tokenised,) = tokenise(path, [russian])
    assert found["Russian"] == pytest.approx(len(WORD.findall(russian)) / tokenised.n_tokens)
    assert set(found) == {"Russian", "English"}

    def again(*_: object) -> None:
        raise AssertionError("counted twice")

    monkeypatch.setattr(words, "_counted", again)
    assert {one.language for one in words_of(path, machine(), database)} == set(found)


def test_a_model_that_cannot_be_read_has_no_words(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    assert words_of(broken, machine(), Database(tmp_path / "okno.db")) == ()


def test_the_shipped_text_has_both_languages():
    assert all(len(text) > 5000 for text in texts().values())
