from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.errors import BadSetting, DoesNotFit
from okno.engines.auto_window import (
    AUTO_ROOM_BYTES,
    BYTES_PER_ELEMENT,
    MIN_CTX,
    Asked,
    choose_window,
)

AUTO = Asked(None, None, None, "f16", 256)
ELEMENTS = 32 * 2 * 1024  # a Llama-2-7B-like 128 KiB per token in f16
TOKEN_BYTES = ELEMENTS * 2
GIB = 1 << 30


def test_with_plenty_of_memory_auto_is_the_trained_context_and_batch_four() -> None:
    window, notes = choose_window(
        AUTO, ctx_train=4096, kv_elements_per_token=ELEMENTS, free_bytes=64 * GIB
    )
    assert (window.batch_size, window.ctx, window.kv_pool_tokens) == (4, 4096, 4 * 4096)
    assert len(notes) == 2


def test_auto_cuts_the_batch_before_the_context() -> None:
    free = AUTO_ROOM_BYTES + 2 * 4096 * TOKEN_BYTES
    window, notes = choose_window(
        AUTO, ctx_train=4096, kv_elements_per_token=ELEMENTS, free_bytes=free
    )
    assert (window.batch_size, window.ctx) == (2, 4096)
    assert "what memory allows" in notes[1]


def test_auto_then_halves_the_context() -> None:
    free = AUTO_ROOM_BYTES + 1500 * TOKEN_BYTES
    window, _ = choose_window(AUTO, ctx_train=4096, kv_elements_per_token=ELEMENTS, free_bytes=free)
    assert (window.batch_size, window.ctx) == (1, 1024)


def test_what_was_asked_is_what_is_opened() -> None:
    asked = replace(AUTO, batch_size=3, ctx=1000)
    window, _ = choose_window(
        asked, ctx_train=4096, kv_elements_per_token=ELEMENTS, free_bytes=64 * GIB
    )
    assert (window.batch_size, window.ctx, window.kv_pool_tokens) == (3, 1000, 3000)


def test_an_asked_window_that_does_not_fit_is_refused_with_what_would() -> None:
    asked = replace(AUTO, batch_size=4, ctx=4096)
    with pytest.raises(DoesNotFit, match=r"2,048 MiB.*1,024 MiB are free.*--ctx 8192") as caught:
        choose_window(asked, ctx_train=4096, kv_elements_per_token=ELEMENTS, free_bytes=GIB)
    assert caught.value.info.details["needed_bytes"] == 4 * 4096 * TOKEN_BYTES


def test_a_pool_smaller_than_the_window_is_refused() -> None:
    asked = replace(AUTO, ctx=2048, kv_pool_tokens=1024)
    with pytest.raises(BadSetting, match="--kv-pool at least 2,048"):
        choose_window(asked, ctx_train=4096, kv_elements_per_token=8, free_bytes=GIB)


@pytest.mark.parametrize("asked", [replace(AUTO, batch_size=257), replace(AUTO, ctx=8)])
def test_values_out_of_range_are_refused(asked: Asked) -> None:
    with pytest.raises(BadSetting):
        choose_window(asked, ctx_train=4096, kv_elements_per_token=8, free_bytes=GIB)


def test_a_context_beyond_training_is_noted() -> None:
    asked = replace(AUTO, batch_size=1, ctx=8192)
    _, notes = choose_window(asked, ctx_train=4096, kv_elements_per_token=8, free_bytes=GIB)
    assert any("beyond the 4,096" in note for note in notes)


@given(
    st.integers(64, 1 << 18), st.integers(1, 1 << 18), st.integers(0, 1 << 38),
    st.sampled_from(sorted(BYTES_PER_ELEMENT)),
)  # fmt: skip
def test_auto_fits_or_is_the_smallest_window(
    ctx_train: int, elements: int, free_bytes: int, kv_type: str
) -> None:
    asked = replace(AUTO, kv_type=kv_type)  # type: ignore[arg-type]
    try:
        window, _ = choose_window(
            asked, ctx_train=ctx_train, kv_elements_per_token=elements, free_bytes=free_bytes
        )
    except DoesNotFit:
        smallest = min(ctx_train, 2 * MIN_CTX)
        assert smallest * elements * 4 > free_bytes - AUTO_ROOM_BYTES
        return
    needed = window.kv_pool_tokens * elements * BYTES_PER_ELEMENT[window.kv_type]
    assert needed <= free_bytes
    assert window.kv_pool_tokens == window.batch_size * window.ctx
