"""What --load-in-4bit stores follows what was measured of the machine."""

from __future__ import annotations

import pytest

from okno.advisor.four_bit import four_bit_type
from okno.core.calibration import Calibration, Curve
from tests.plan.speed_cases import calibration


def curve(alone: float, many: float) -> Curve:
    return Curve((1, 512), (alone, many), (0.0, 0.0))


def measured(**weights: Curve) -> Calibration:
    return calibration(weights=weights)


def test_without_a_measurement_it_is_the_more_exact_one() -> None:
    assert four_bit_type(None) == "Q4_K_M"
    assert four_bit_type(measured(Q4_0=curve(1, 1), Q8_0=curve(1, 1))) == "Q4_K_M"


@pytest.mark.parametrize(
    ("plain", "expected"),
    [((1.0, 50.0), "Q4_K_M"), ((0.95, 50.0), "Q4_K_M"), ((0.8, 50.0), "Q4_0"),
     ((1.0, 5.0), "Q4_0")],
)  # fmt: skip
def test_q4_0_must_be_clearly_faster(plain: tuple[float, float], expected: str) -> None:
    """In answers, or in prompts so much that the whole request is."""
    found = measured(Q4_0=curve(*plain), Q4_K=curve(1.0, 50.0), Q6_K=curve(1.0, 50.0))
    assert four_bit_type(found) == expected
