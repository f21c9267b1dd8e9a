"""`--lora [NAME=]PATH[:SCALE]` as people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.config.adapters import asked_adapter, asked_adapters
from okno.core.adapter import Adapter
from tests.config.support import from_file
from tests.config.test_load import loaded, refusal


@pytest.mark.parametrize(
    ("text", "adapter"),
    [
        ("mine.gguf", Adapter("mine", "mine.gguf")),
        ("a/b/mine.gguf:0.5", Adapter("mine", "a/b/mine.gguf", 0.5)),
        ("poet=a/b/mine.gguf", Adapter("poet", "a/b/mine.gguf")),
        ("poet=folder:-1", Adapter("poet", "folder", -1.0)),
        ("folder/", Adapter("folder", "folder/")),
        ("C:\\models\\a.gguf", Adapter("C:\\models\\a", "C:\\models\\a.gguf")),
        ("x=C:\\models\\a.gguf:2", Adapter("x", "C:\\models\\a.gguf", 2.0)),
        ("./a=b/c.gguf", Adapter("c", "./a=b/c.gguf")),
        ("x=./a=b.gguf:1e-1", Adapter("x", "./a=b.gguf", 0.1)),
        ("odd:name.gguf", Adapter("odd:name", "odd:name.gguf")),
    ],
)
def test_name_and_scale_may_be_left_out(text: str, adapter: Adapter) -> None:
    assert asked_adapter(text) == adapter


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a.gguf:much", "scale of 'a.gguf' is 'much'; give a number, as in a.gguf:0.5"),
        ("a.gguf:", "scale of 'a.gguf' is ''"),
        ("a.gguf:nan", "scale of 'a.gguf' is 'nan'"),
        ("a.gguf:inf", "scale of 'a.gguf' is 'inf'"),
        ("name=", "names no adapter"),
        ("=:1", "names no adapter"),
        ("a\nb", "names no adapter"),
    ],
)
def test_what_says_no_adapter_is_refused_with_the_way_to_write_it(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        asked_adapter(text)


def test_two_of_one_name_need_names() -> None:
    with pytest.raises(ValueError, match="2 adapters are called 'a'; give each a name"):
        asked_adapters(["x/a.gguf", "y/a.gguf"])
    assert [one.name for one in asked_adapters(["x/a.gguf", "b=y/a.gguf"])] == ["a", "b"]


@given(st.text(max_size=60))
def test_any_text_is_an_adapter_or_refused(text: str) -> None:
    try:
        found = asked_adapter(text)
    except ValueError:
        return
    assert found.path
    assert found.name


def test_flags_variable_and_file_say_the_same() -> None:
    wanted = ("a.gguf", "b=c.gguf:0.5")
    assert loaded(("lora", "--lora", list(wanted))).settings.lora == wanted
    assert loaded(OKNO_LORA=",".join(wanted)).settings.lora == wanted
    assert from_file("load: {lora: [a.gguf, 'b=c.gguf:0.5']}").settings.lora == wanted


def test_a_wrong_one_is_refused_by_the_name_it_was_given_under() -> None:
    assert "--lora" in refusal(("lora", "--lora", ["a.gguf:much"]))
    assert "OKNO_LORA" in refusal(OKNO_LORA="a.gguf:much")
