from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.plan import Figure
from okno.plan.depth import (
    Cost,
    DepthCurve,
    PositionLoss,
    WindowLoss,
    enough_ctx,
    in_words,
    quality_of_window,
)
from okno.plan.depth_document import from_document, to_document


def near(value: float, half: float = 0.1) -> Figure:
    return Figure(value, value - half, value + half, "measured")


def curve(losses: dict[int, float], **changes: object) -> DepthCurve:
    widest = losses[max(losses)]
    windows = [
        WindowLoss(ctx, near(loss), near(loss - widest), near(0.0)) for ctx, loss in losses.items()
    ]
    return DepthCurve(
        model="m", model_name="m", text="t", text_name="t", ctx_train=max(losses), n_tokens=9,
        n_passes=1, n_judged=4, positions=(PositionLoss(0, 9, 8, near(1.0)),),
        windows=tuple(windows), **changes,  # type: ignore[arg-type]
    )  # fmt: skip


STEEP = curve({512: 3.0, 1024: 2.0, 2048: 1.5, 4096: 1.49})


@pytest.mark.parametrize(("ctx", "lost"), [(512, 1.51), (1024, 0.51), (2048, 0.01), (4096, 0.0)])
def test_a_measured_window_has_its_measured_loss(ctx: int, lost: float) -> None:
    figure = quality_of_window(STEEP, ctx)
    assert figure.value == pytest.approx(lost)
    assert figure.kind == "measured"


def test_between_two_windows_the_loss_is_interpolated_over_doublings() -> None:
    figure = quality_of_window(STEEP, round(512 * math.sqrt(2)))
    assert figure.value == pytest.approx((1.51 + 0.51) / 2, abs=1e-3)
    assert figure.low < figure.value < figure.high
    assert figure.kind == "predicted"


def test_below_the_narrowest_window_its_loss_is_only_a_lower_bound() -> None:
    figure = quality_of_window(STEEP, 100)
    assert (figure.value, figure.high) == (pytest.approx(1.51), math.inf)


def test_beyond_the_widest_window_nothing_more_is_lost() -> None:
    assert quality_of_window(STEEP, 100_000).value == 0.0


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_wider_window_of_a_falling_curve_never_loses_more(first: int, second: int) -> None:
    narrow, wide = sorted((first, second))
    assert quality_of_window(STEEP, narrow).value >= quality_of_window(STEEP, wide).value


def test_enough_is_the_narrowest_window_that_nothing_wider_beats_by_much() -> None:
    assert enough_ctx(STEEP, 0.02) == 2048
    assert enough_ctx(STEEP, 0.6) == 1024
    assert enough_ctx(STEEP, 0.001) is None


def test_a_gain_that_only_comes_after_a_flat_stretch_counts() -> None:
    late = curve({512: 2.0, 1024: 2.0, 2048: 1.0})
    assert enough_ctx(late, 0.02) is None


def test_the_sentence_names_the_window_and_the_worth() -> None:
    assert in_words(STEEP) == (
        "Beyond 2,048 tokens this text gains less than 0.02 bits per token (measured up to 4,096)."
    )
    assert "gains from every window measured" in in_words(STEEP, 0.001)
    assert "Only one window" in in_words(curve({512: 2.0}))


def test_perplexity_is_two_to_the_bits() -> None:
    assert STEEP.windows[0].perplexity == 8.0


def test_a_document_gives_the_same_curve_back() -> None:
    endless = Figure(1.0, -math.inf, math.inf, "measured")
    cost = Cost("q8_0", "f16", near(0.0), near(1.0), endless)
    told = curve({512: 2.0, 1024: 1.0}, kv_types=(cost,), weights=cost, notes=("a note",))
    document = json.loads(json.dumps(to_document(told), allow_nan=False))
    assert from_document(document) == told


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"windows": []}, {"windows": 3}, {"positions": None}, {"text": 1}]
)
def test_a_document_of_another_shape_is_no_curve(change: dict[str, object]) -> None:
    assert from_document({**to_document(STEEP), **change}) is None
