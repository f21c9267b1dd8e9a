"""TextStream releases whole characters, ends at stop strings, and never takes text back."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from okno.engines.text import TextStream


def run(pieces, stops=(), include_stop=False):
    """(released after each push, whole text, stop)."""
    stream = TextStream(stops, include_stop=include_stop)
    released = [stream.push(piece).text for piece in pieces]
    return released, "".join(released) + stream.finish(), stream.stop


def cut_by_definition(text, stops, include_stop):
    """The earliest last character wins, then the earliest first one."""
    for end in range(1, len(text) + 1):
        matching = [s for s in stops if text[:end].endswith(s)]
        if matching:
            stop = max(matching, key=len)
            return text[: end if include_stop else end - len(stop)], stop
    return text, None


def split(data, cuts):
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


few_letters = st.text(alphabet="abя🙂", max_size=30)
any_bytes = st.one_of(
    st.binary(max_size=40),
    few_letters.map(str.encode),
    st.lists(
        st.sampled_from([b"a", b"b", b"\xd1", b"\x8f", b"\xf0\x9f", b"\x99\x82", b"\xff"])
    ).map(b"".join),
)
some_stops = st.lists(st.text(alphabet="abя🙂\ufffd", min_size=1, max_size=6), max_size=5)


@given(any_bytes, st.lists(st.integers(0, 99), max_size=12), some_stops, st.booleans())
@example(b"aab", [1, 2], ["aab", "ab", "b"], False)
@example(b"abab\xf0\x9f", [3], ["ab\ufffd"], False)
def test_any_split_gives_the_decoded_text_cut_at_the_first_stop(data, cuts, stops, include):
    expected, stop = cut_by_definition(data.decode("utf-8", "replace"), stops, include)
    released, text, found = run(split(data, cuts), stops, include)
    assert (text, found) == (expected, stop)
    assert all(expected.startswith("".join(released[: i + 1])) for i in range(len(released)))


@given(few_letters, some_stops)
def test_nothing_is_held_back_that_cannot_become_a_stop(text, stops):
    stream = TextStream(stops)
    released = stream.push(text.encode()).text
    if stream.stop is None:
        held = text[len(released) :]
        assert held == "" or any(s.startswith(held) for s in stops)


def test_a_character_appears_only_when_whole():
    released, _, _ = run([b"\xf0", b"\x9f\x99", b"\x82", b"\xd1", b"\x8f"])
    assert released == ["", "", "🙂", "", "я"]


def test_an_incomplete_character_at_the_end_becomes_one_replacement_character():
    assert run([b"ok \xf0\x9f\x99"])[1] == "ok \ufffd"


def test_a_stop_across_three_tokens_is_held_back_and_removed():
    released, text, stop = run([b"hello <", b"|end", b"|> tail"], ["<|end|>"])
    assert (released, text, stop) == (["hello ", "", ""], "hello ", "<|end|>")


def test_a_false_beginning_of_a_stop_is_released_later():
    assert run([b"a <", b"|e", b"lse"], ["<|end|>"])[0] == ["a ", "", "<|else"]


def test_include_stop_keeps_the_stop_and_drops_what_follows():
    assert run([b"one\n", b"\ntwo"], ["\n\n"], include_stop=True)[1] == "one\n\n"


def test_pushing_after_the_stop_changes_nothing():
    stream = TextStream(["."])
    assert stream.push(b"end. more").text == "end"
    again = stream.push(b"x")
    assert (again.text, again.stop, stream.finish()) == ("", ".", "")


def test_of_two_stops_that_end_together_the_longer_wins():
    assert run([b"xaab"], ["b", "aab"]) == (["x"], "x", "aab")


def test_a_shorter_stop_inside_a_longer_one_ends_the_text_earlier():
    assert run([b"x<end>"], ["<end>", "en"])[1:] == ("x<", "en")


@pytest.mark.parametrize("piece", [b"a" * 511, b"ab" * 300])
def test_sixteen_long_stops_hold_back_no_more_than_their_own_length(piece):
    stops = ["a" * (496 + i) + "!" for i in range(16)]
    released = TextStream(stops).push(piece).text
    assert len(piece) - len(released) <= 511
