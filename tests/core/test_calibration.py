from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.calibration import AttentionCost, Curve, from_json
from okno.core.errors import BadSetting
from tests.plan.speed_cases import calibration, in_fours

CURVE = in_fours(1e-11)
GOOD = calibration(
    experts={"Q4_0": CURVE}, slim={"Q4_0": CURVE},
    attention=(
        AttentionCost("f16", 64, CURVE, CURVE, CURVE, 1e-9, 2e-9, 8, 2, 3, CURVE, CURVE),
        AttentionCost("q8_0", 64, CURVE, CURVE, None, 1e-9),
    ),
)  # fmt: skip


def as_json() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(GOOD.to_json()))
    return told


def test_a_calibration_survives_json() -> None:
    assert from_json(as_json()) == GOOD


def test_one_of_an_earlier_version_is_told_from_a_broken_one() -> None:
    told = as_json() | {"version": 4}
    del told["sampling_s"]  # came with version 6
    for cost in told["attention"]:
        del cost["again"]  # came with version 5
    with pytest.raises(BadSetting, match=r"version 4, .*`okno calibrate` again"):
        from_json(told)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 99}, "version 99"),
        ({"surprise": 1}, "surprise"),
        ({"threads": 0}, "threads"),
        ({"threads": True}, "threads"),
        ({"kind": "wished"}, "wished"),
        ({"op_s": -1.0}, "op_s"),
        ({"op_s": float("inf")}, "op_s"),
        ({"op_s": "1"}, "op_s"),
        ({"weights": []}, "curves"),
        ({"weights": {"Q4_0": {"at": [2, 1], "seconds": [1, 1], "spread": [0, 0]}}}, "ascend"),
        ({"weights": {"Q4_0": {"at": [1], "seconds": [], "spread": [0]}}}, "as many"),
        ({"attention": [{"kv_type": "f16"}]}, "missing in AttentionCost"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(BadSetting, match=named):
        from_json(as_json() | change)


@pytest.mark.parametrize("key", list(as_json()))
def test_every_key_is_needed(key: str) -> None:
    told = as_json()
    del told[key]
    with pytest.raises(BadSetting, match=key):
        from_json(told)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
)


@given(key=st.sampled_from(sorted(as_json())), value=JSON)
def test_any_json_is_read_or_refused(key: str, value: object) -> None:
    try:
        from_json(as_json() | {key: value})
    except BadSetting:
        return


def test_a_curve_without_points_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Curve((), (), ())
