"""Between the shapes that calibration measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.calibration import AttentionCost, Curve
from okno.plan.speed_attention_cost import cost_at
from okno.plan.speed_work import AttentionLayers

CELLS = (256, 4096)


def cost(
    kv: str, head_dim: int, n_head: int, n_head_kv: int, near: float, far: float
) -> AttentionCost:
    curve = Curve(CELLS, (near, far), (0.0, 0.0))
    few = replace(curve, seconds=(2 * near, 2 * far))
    return AttentionCost(kv, head_dim, curve, few, None, 1e-9, 0.0, n_head, n_head_kv)


def layers(n_head: int, n_head_kv: int, head_dim: float = 64) -> AttentionLayers:
    return AttentionLayers(1, n_head, n_head_kv, head_dim, None)


COSTS = (
    cost("f16", 64, 32, 8, 20, 30),
    cost("f16", 64, 16, 8, 24, 40),
    cost("f16", 64, 8, 2, 10, 10),
    cost("f16", 64, 32, 32, 60, 90),
    cost("f16", 128, 32, 8, 40, 50),
    cost("q8_0", 64, 32, 8, 5, 6),
)


@pytest.mark.parametrize("measured", COSTS)
def test_a_measured_shape_costs_what_was_measured(measured: AttentionCost) -> None:
    shape = layers(measured.n_head, measured.n_head_kv, measured.head_dim)
    found = cost_at(COSTS, measured.kv_type, shape, 0)
    assert found.alone.seconds == pytest.approx(measured.alone.seconds)
    assert found.few.seconds == pytest.approx(measured.few.seconds)


def test_fewer_queries_per_kv_head_lie_on_the_line_between() -> None:
    found = cost_at(COSTS, "f16", layers(64, 24), 0)  # 2.67 queries each: between 4 and 2
    eights = cost_at(COSTS, "f16", layers(64 * 8 // 24, 8), 0)
    assert 20 < eights.alone.seconds[0] < 24
    assert eights.alone.seconds[0] < found.alone.seconds[0] < 60


def test_kv_heads_between_two_measured_lie_between_by_their_logarithm() -> None:
    found = cost_at(COSTS, "f16", layers(16, 4), 0)
    assert found.alone.seconds == pytest.approx((15, 20))  # 4 is half way from 2 to 8


def test_beyond_the_measured_shapes_the_outermost_counts() -> None:
    assert cost_at(COSTS, "f16", layers(64, 1), 0).alone.seconds == pytest.approx((10, 10))
    assert cost_at(COSTS, "f16", layers(64, 64), 0).alone.seconds == pytest.approx((60, 90))


def test_rows_that_find_cells_in_the_caches_lie_between_too_but_care_for_no_weights() -> None:
    """What was swept through the caches before is no matter to those who come after the first."""
    near = [
        replace(one, again=Curve(CELLS, (seconds, seconds), (0.0, 0.0)))
        for one, seconds in zip(COSTS[1:3], (9.0, 5.0), strict=True)
    ]
    far = [replace(one, alone=one.few, again=None, swept_bytes=1000) for one in near]
    for swept_bytes in (0, 30, 1000):
        found = cost_at((*near, *far), "f16", layers(16, 4), swept_bytes)
        assert found.again is not None
        assert found.again.seconds == pytest.approx((7, 7))
    assert found.alone.seconds[0] > 15


def test_a_head_size_measured_in_one_shape_takes_the_proportions_of_another() -> None:
    found = cost_at(COSTS, "f16", layers(32, 32, 128), 0)
    assert found.alone.seconds == pytest.approx((40 * 60 / 20, 50 * 90 / 30))
    assert cost_at(COSTS, "q8_0", layers(8, 2), 0).alone.seconds == pytest.approx((2.5, 2))


def test_head_sizes_between_lie_on_the_line() -> None:
    assert cost_at(COSTS, "f16", layers(32, 8, 96), 0).alone.seconds == pytest.approx((30, 40))


def test_one_shape_alone_stands_for_all() -> None:
    only = (cost("f16", 64, 32, 8, 20, 30),)
    assert cost_at(only, "f16", layers(9, 3, 200), 0) == only[0]


def test_an_unmeasured_kv_type_costs_the_most_expensive() -> None:
    found = cost_at(COSTS, "q5_1", layers(32, 8), 0)
    assert found.alone.seconds == pytest.approx((20, 30))


@given(
    st.sampled_from(["f16", "q8_0", "q4_0"]),
    st.integers(1, 128),
    st.integers(1, 16),
    st.floats(16, 1024),
)
def test_every_shape_has_a_cost_between_the_measured_ones(
    kv: str, n_head_kv: int, group: int, head_dim: float
) -> None:
    found = cost_at(COSTS, kv, layers(n_head_kv * group, n_head_kv, head_dim), 0)
    for seconds in (*found.alone.seconds, *found.few.seconds):
        assert 0.2 < seconds < 1e5


def test_what_passes_between_two_attentions_counts_by_its_logarithm() -> None:
    near = [replace(c, swept_bytes=10**6) for c in COSTS]
    far = [
        replace(near[0], swept_bytes=10**8, alone=Curve(CELLS, (40, 90), (0.0, 0.0))),
        replace(near[2], swept_bytes=10**8),
    ]

    def at(shape: AttentionLayers, swept: int) -> tuple[float, ...]:
        return cost_at([*near, *far], "f16", shape, swept).alone.seconds

    common = layers(32, 8)
    assert at(common, 10**5) == pytest.approx((20, 30))
    assert at(common, 10**7) == pytest.approx((30, 60))
    assert at(common, 10**10) == pytest.approx((40, 90))
    assert at(layers(8, 2), 10**8) == pytest.approx((10, 10)), "a shape that does not mind"
    assert at(layers(16, 8), 10**8) == pytest.approx((48, 120)), "in proportion to the nearest"


def test_costs_without_flash_attention_lie_between_those_measured_too() -> None:
    plain = {
        64: Curve((1, 64), (10.0, 4.0), (0.0, 0.0)),
        128: Curve((1, 64), (20.0, 6.0), (0.0, 0.0)),
    }
    some = tuple(replace(cost("f16", n, 32, 8, 20, 30), plain=plain[n]) for n in (64, 128))
    found = cost_at(some, "f16", layers(32, 8, 96), 0).plain
    assert found is not None
    assert found.seconds == pytest.approx((15, 5))
    assert (
        cost_at((replace(some[0], plain=None), some[1]), "f16", layers(32, 8, 96), 0).plain is None
    )


def test_costs_without_flash_attention_follow_what_passes_between_two_attentions() -> None:
    near = replace(cost("f16", 64, 32, 8, 20, 30), swept_bytes=10**6,
                   plain=Curve((1, 64), (10.0, 4.0), (0.0, 0.0)))  # fmt: skip
    far = replace(near, swept_bytes=10**8, plain=Curve((1, 16), (15.0, 4.0), (0.0, 0.0)))
    found = cost_at((near, far), "f16", layers(32, 8), 10**8).plain
    assert found is not None
    assert found.seconds[0] == pytest.approx(15)
