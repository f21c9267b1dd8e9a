"""`okno tokens`: exact counts by the model's own tokenizer, split by script."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.cli.app import run
from okno.cli.tokens import count
from okno.cli.tokens_count import (
    SCRIPTS,
    counts_of,
    script_of,
    spans,
    texts_of,
    tokens_by_script,
)
from okno.core.errors import ModelUnusable
from okno.engines.tokenise import tokenise
from okno.inspect.models import demo_model
from tests.conftest import MakeModel
from tests.inspect.gguf_bytes import LLAMA_DATA_BYTES, llama

MIXED = "Привет, мир! Это окно.\nHello world, it is a well-known window of 2048 tokens — 100 %."
Tokens = Callable[..., dict[str, object]]


@pytest.fixture(autouse=True)
def _no_okno_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OKNO_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def tokens(tmp_path, capsys) -> Tokens:
    """The JSON that `okno tokens` prints for a text."""

    def ask(text: str, *flags: str) -> dict[str, object]:
        path = tmp_path / "text.txt"
        path.write_text(text, encoding="utf-8")
        assert run(["tokens", str(path), "--json", *flags]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def demo_tokens(text: str) -> int:
    """As the engine itself counts them, in a process of its own."""
    code = (
        "import sys, llama_cpp\n"
        "model = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)\n"
        "text = sys.stdin.buffer.read()\n"
        "print(len(model.tokenize(text, add_bos=False, special=False)))"
    )
    arguments = [sys.executable, "-c", code, str(demo_model().path)]
    return int(
        subprocess.run(arguments, input=text.encode(), capture_output=True, check=True).stdout
    )


def test_the_counts_are_the_engines_own(tokens):
    found = tokens(MIXED)
    assert found["tokens"] == demo_tokens(MIXED)
    assert found["characters"] == len(MIXED)
    assert found["words"] == 15
    assert found["by_script_is_exact"] is True


def test_each_script_has_its_own_count_and_they_add_up(tokens):
    found = tokens(MIXED)
    parts = found["by_script"]
    assert [parts[script]["words"] for script in SCRIPTS] == [4, 9, 2]
    for field in ("words", "characters", "tokens"):
        assert sum(parts[script][field] for script in SCRIPTS) == found[field]
    alone = tokens("Привет, мир! Это окно.\n")
    assert alone["by_script"]["cyrillic"]["tokens"] == alone["tokens"]
    assert abs(parts["cyrillic"]["tokens"] - alone["tokens"]) <= 1


def test_a_window_holds_as_many_words_as_the_text_says(tokens):
    found = tokens(MIXED)
    expected = round(2048 * found["words"] / found["tokens"])
    assert found["words_in_window"]["2048"] == expected


def test_people_get_a_table(tmp_path, capsys):
    path = tmp_path / "t.txt"
    path.write_text(MIXED, encoding="utf-8")
    assert run(["tokens", str(path)]) == 0
    out = capsys.readouterr().out
    assert "Russian (Cyrillic)" in out
    assert "English (Latin)" in out
    assert "A window of demo holds of this text: 1,024: " in out


def test_stdin_is_a_text_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MIXED.encode())))
    assert run(["tokens", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == demo_tokens(MIXED)


def test_an_empty_text_has_nothing(tokens):
    found = tokens("")
    assert (found["words"], found["tokens"], found["words_per_token"]) == (0, 0, 0)


def test_a_tokenizer_that_changes_the_text_gives_exact_totals_and_shares(make_model: MakeModel):
    counts, is_exact = count(make_model("bert-tiny"), "Hello World! Привет, Мир 42")
    assert not is_exact
    (whole,) = tokenise(make_model("bert-tiny"), ["Hello World! Привет, Мир 42"])
    assert sum(found.tokens for found in counts.values()) == whole.n_tokens
    assert counts["latin"].words == counts["cyrillic"].words == 2


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF",
        llama().bytes(LLAMA_DATA_BYTES),  # sound, but with no tokenizer model
        llama().string("tokenizer.ggml.model", "none").bytes(LLAMA_DATA_BYTES),
        llama().string("tokenizer.ggml.model", "gpt2").bytes(LLAMA_DATA_BYTES),
    ],
)
def test_a_broken_model_file_is_an_error_and_no_crash(tmp_path, capsys, data):
    (tmp_path / "bad.gguf").write_bytes(data)
    (tmp_path / "t.txt").write_text("text")
    assert run(["tokens", str(tmp_path / "t.txt"), "--model", str(tmp_path / "bad.gguf")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "bad.gguf" in captured.err


def test_a_child_that_is_killed_is_an_error(tmp_path, monkeypatch):
    """As an assertion of the engine would end it."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelUnusable, match="exit status 1"):
        tokenise(demo_model().path, ["x"])


@pytest.mark.parametrize("name", ["no.txt", "."])
def test_a_text_that_cannot_be_read_is_a_usage_error(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert run(["tokens", name]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_what_is_not_utf8_is_said(tmp_path, capsys):
    (tmp_path / "t.txt").write_bytes("Привет".encode("cp1251"))
    assert run(["tokens", str(tmp_path / "t.txt")]) == 2
    assert "not UTF-8 text (byte 0)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "script"),
    [("слово", "cyrillic"), ("word", "latin"), ("42", "other"), ("日本", "other"),
     ("c++", "latin"), ("Saiga-окно", "latin"), ("ёж", "cyrillic"), ("naïve", "latin")],
)  # fmt: skip
def test_a_word_is_of_the_script_most_of_its_letters_are_in(word, script):
    assert script_of(word) == script


@given(text=st.text(max_size=60))
def test_every_character_belongs_to_one_script(text):
    assert sum(map(len, texts_of(text).values())) == len(text)
    found = spans(text)
    assert [span.start for span in found] == sorted({span.start for span in found})


@given(text=st.text(min_size=1, max_size=60), cuts=st.sets(st.integers(0, 240), max_size=20))
def test_every_token_belongs_to_one_script(text, cuts):
    size = len(text.encode())
    ends = [*sorted(cut for cut in cuts if cut < size), size]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    found = tokens_by_script(text, lengths)
    assert sum(found.values()) == len(lengths)
    assert sum(count.tokens for count in counts_of(text, found).values()) == len(lengths)
