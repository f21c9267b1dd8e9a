from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from okno.plan.depth_cut import (
    first_judged,
    narrowest_window,
    pass_lengths,
    slides,
    windows_to_try,
)

CTX = st.integers(16, 200)
LENGTH = st.integers(1, 1200)


def a_chat_server(n_tokens: int, ctx: int, keep: int) -> list[int]:
    """The rule, said one token at a time: where the seen text begins for each token."""
    start, begins = keep, []
    for index in range(n_tokens):
        while keep + (index - start) + 1 > ctx and index >= keep:  # with this token: no room
            start += (ctx - keep) // 4
        begins.append(start)
    return begins


@given(LENGTH, CTX, st.integers(0, 1), st.data())
def test_slides_follow_the_rule_of_the_server(
    n_tokens: int, ctx: int, keep: int, data: st.DataObject
) -> None:
    judged_from = data.draw(st.integers(min(keep, n_tokens - 1), n_tokens - 1))
    expected = a_chat_server(n_tokens, ctx, keep)
    found = {
        index: slide.start
        for slide in slides(n_tokens, ctx, judged_from, keep)
        for index in range(slide.judged_from, slide.judged_to)
    }
    assert list(found) == list(range(judged_from, n_tokens))
    assert all(found[index] == expected[index] for index in found)


@given(LENGTH, CTX, st.integers(0, 1))
def test_a_full_window_sees_three_quarters_of_itself_at_least(
    n_tokens: int, ctx: int, keep: int
) -> None:
    for slide in slides(n_tokens, ctx, keep, keep):
        seen = [keep + i - slide.start for i in (slide.judged_from, slide.judged_to - 1)]
        assert max(seen) + 1 <= ctx
        if slide.start > keep:
            assert min(seen) + 1 >= 3 * ctx // 4


@given(st.integers(1, 10**6))
def test_the_narrowest_window_leaves_doublings_to_compare(limit: int) -> None:
    narrowest = narrowest_window(limit)
    assert 64 <= narrowest <= 512
    assert narrowest & (narrowest - 1) == 0
    assert narrowest * 16 <= limit or narrowest == 64


def test_windows_double_up_to_the_first_that_holds_the_text() -> None:
    assert windows_to_try(3000, 8192) == (512, 1024, 2048, 4096)
    assert windows_to_try(1024, 1024) == (64, 128, 256, 512, 1024)


def test_the_widest_window_is_what_the_model_was_trained_for_when_that_is_no_doubling() -> None:
    assert windows_to_try(40_960, 40_960)[-2:] == (32_768, 40_960)


@given(st.integers(0, 5000), st.integers(16, 700))
def test_passes_are_full_but_for_a_last_one_of_half_at_least(n_tokens: int, limit: int) -> None:
    lengths = pass_lengths(n_tokens, limit)
    assert sum(lengths) <= n_tokens
    assert all(length == limit for length in lengths[:-1])
    assert n_tokens - sum(lengths) < max(1, limit // 2)
    assert not lengths or len(lengths) == 1 or lengths[-1] >= limit // 2


@given(st.lists(st.integers(1, 900), min_size=1, max_size=9), st.integers(1, 3000))
def test_late_tokens_are_an_even_share_of_each_second_half(lengths: list[int], n: int) -> None:
    starts = first_judged(lengths, n)
    judged = [length - start for length, start in zip(lengths, starts, strict=True)]
    assert all(start >= length // 2 for length, start in zip(lengths, starts, strict=True))
    assert all(1 <= count <= max(1, n // len(lengths)) for count in judged)
