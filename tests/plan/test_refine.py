from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.plan.refine import Refinement, refinement_from


def taught(ratio: float, rows: int = 4, steps: int = 100, noise: float = 0.02) -> Refinement:
    source, refinement = random.Random(0), Refinement()
    for _ in range(steps):
        refinement.observe(rows, 1.0, ratio * source.gauss(1, noise))
    return refinement


def test_nothing_learnt_corrects_nothing() -> None:
    assert Refinement().correction(4).factor == 1
    assert Refinement().correction(4).error is None


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.3, 2.5])
def test_a_steady_deviation_is_learnt(ratio: float) -> None:
    correction = taught(ratio).correction(4)
    assert correction.factor == pytest.approx(ratio, rel=0.03)
    assert correction.error is not None
    assert correction.error < 0.2


def test_a_stalled_step_changes_little() -> None:
    refinement = taught(1.1)
    refinement.observe(4, 1.0, 50.0)
    assert refinement.correction(4).factor == pytest.approx(1.1, rel=0.03)


def test_a_machine_that_changes_is_followed() -> None:
    refinement = taught(1.0)
    for _ in range(600):
        refinement.observe(4, 1.0, 2.0)
    assert refinement.correction(4).factor == pytest.approx(2.0, rel=0.1)


def test_a_machine_that_became_slower_makes_no_other_row_count_look_fast() -> None:
    """Pieces of 64 rows ran 200 times and are known; then everything takes a quarter longer. Pieces
    of 48, which never ran, must not seem faster for it."""
    refinement = taught(1.0, rows=64, steps=200)
    for _ in range(30):
        refinement.observe(64, 0.5, 0.625)
    ran, never_ran = refinement.correction(64).factor, refinement.correction(48).factor
    assert ran > 1.15
    assert ran / never_ran < 1.05


def test_groups_that_differ_are_told_apart() -> None:
    refinement = Refinement()
    for _ in range(50):
        refinement.observe(64, 0.5, 0.5)
        refinement.observe(16, 0.2, 0.3)
    assert refinement.correction(64).factor == pytest.approx(1.0, rel=0.03)
    assert refinement.correction(16).factor == pytest.approx(1.5, rel=0.03)
    assert 1 < refinement.correction(32).factor < 1.5


def test_row_counts_far_off_are_corrected_less() -> None:
    refinement = taught(2.0, rows=4)
    near, far = refinement.correction(8), refinement.correction(512)
    assert 1 < far.factor < near.factor < 2
    assert far.error is None


def test_noisy_steps_leave_a_wide_error() -> None:
    quiet, noisy = taught(1.0, noise=0.01).correction(4), taught(1.0, noise=0.2).correction(4)
    assert quiet.error is not None
    assert noisy.error is not None
    assert noisy.error > 2 * quiet.error


def test_it_survives_being_kept() -> None:
    refinement = taught(1.4, rows=64, steps=400)
    again = refinement_from(json.loads(json.dumps(refinement.to_json())))
    for rows in (1, 16, 64):
        before, after = refinement.correction(rows), again.correction(rows)
        assert after.factor == pytest.approx(before.factor, rel=0.03)
    kept, fresh = again.correction(64).error, refinement.correction(64).error
    assert kept is not None
    assert fresh is not None
    assert kept > fresh


def test_what_never_ran_is_as_open_after_a_start_as_before() -> None:
    refinement = taught(1.25, rows=64, steps=400)
    again = refinement_from(refinement.to_json())
    for one in (refinement, again):
        for _ in range(8):
            one.observe(1, 0.03, 0.03 * 0.8)
    factors = [one.correction(1).factor for one in (refinement, again)]
    assert factors[1] == pytest.approx(factors[0], rel=0.03)
    assert factors[1] < 0.9


def test_a_lesson_of_one_row_count_tells_of_those_that_never_ran() -> None:
    """As older versions kept it: a factor of 1 for them."""
    groups = [[0.0, 0.0, 0.03]] * 22
    groups[6] = [200.0, math.log(1.25), 0.001]
    kept = refinement_from(groups)
    assert kept.correction(64).factor / kept.correction(48).factor < 1.05


@pytest.mark.parametrize("slower", [1.25, 2.0])
def test_no_row_count_looks_fast_on_a_machine_that_became_slower(slower: float) -> None:
    refinement = taught(slower, rows=64, steps=400)
    for rows, most in ((48, 1.08), (24, 1.15), (12, 1.2)):
        assert refinement.correction(64).factor / refinement.correction(rows).factor < most


def test_a_first_step_that_stalls_is_believed_in_part_and_soon_forgotten() -> None:
    refinement = Refinement()
    refinement.observe(64, 0.5, 2.0)
    assert refinement.correction(64).factor < 1.35
    assert refinement.correction(1).factor < 1.25
    for _ in range(8):
        refinement.observe(64, 0.5, 0.5)
    assert refinement.correction(64).factor < 1.08


def test_what_was_forgotten_is_not_told_as_certain() -> None:
    refinement = taught(1.5, rows=4, steps=200)
    sure = refinement.correction(4).error
    for _ in range(3600):
        refinement.observe(64, 0.5, 0.5)
    unsure = refinement.correction(4).error
    assert sure is not None
    assert unsure is not None
    assert unsure > 2 * sure


def test_a_thousand_quick_steps_and_very_long_ones_keep_it_sound() -> None:
    source, refinement = random.Random(1), Refinement()
    for _ in range(3000):
        predicted = 10 ** source.uniform(-9, 6)
        refinement.observe(source.choice((1, 5, 17, 64, 5000)), predicted, predicted * 1.1)
    covariance = refinement.with_flash.covariance
    assert np.allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > 0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=12),
)


@given(JSON)
def test_anything_else_that_was_kept_is_an_empty_refinement(data: object) -> None:
    assert refinement_from(data).correction(4).factor == 1


@given(
    st.integers(-3, 10_000), st.floats(allow_nan=True), st.floats(allow_nan=True)
)  # fmt: skip
def test_no_observation_breaks_it(rows: int, predicted: float, measured: float) -> None:
    refinement = taught(1.0)
    refinement.observe(rows, predicted, measured)
    assert all(math.isfinite(x) for group in refinement.to_json() for x in group)
    for count in (1, 7, 64, 5000):
        assert 0.1 < refinement.correction(count).factor < 10


def test_steps_without_flash_attention_teach_on_their_own_and_for_those_with_it_at_first() -> None:
    learnt = Refinement()
    for _ in range(40):
        learnt.observe(16, 0.1, 0.2, flash=False)
    assert learnt.correction(16).factor == learnt.correction(16, flash=False).factor
    for _ in range(20):
        learnt.observe(16, 0.1, 0.1)
    again = refinement_from(learnt.to_json())
    assert again.correction(16, flash=False).factor == pytest.approx(2, rel=0.05)
    assert again.correction(16).factor == pytest.approx(1, rel=0.01)
