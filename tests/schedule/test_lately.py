"""The pace of the last steps."""

from __future__ import annotations

import pytest

from okno.schedule.lately import Lately


def test_the_pace_is_unknown_until_prompts_and_decodes_were_seen() -> None:
    lately = Lately()
    assert lately.pace is None
    lately.ran(0, 64, 0.5)
    assert lately.pace is None
    lately.ran(3, 0, 0.05)
    assert lately.pace is not None


def test_steps_of_a_linear_machine_give_its_coefficients() -> None:
    """50 ms for a step of four decodes, 2 ms for each prompt row beside them."""
    lately = Lately()
    for rows in (0, 64, 0, 30, 64, 1, 0):
        lately.ran(4, rows, 0.05 + 0.002 * rows)
    pace = lately.pace
    assert pace is not None
    assert (pace.step_s, pace.row_s) == pytest.approx((0.05, 0.002))
    assert 1 < pace.piece_rows < 64
    assert pace.advance == 1


def test_the_pace_follows_a_machine_that_becomes_slower() -> None:
    lately = Lately()
    lately.ran(0, 64, 0.1)
    for _ in range(100):
        lately.ran(4, 0, 0.02)
    for _ in range(40):
        lately.ran(4, 0, 0.04)
    assert lately.pace is not None
    assert lately.pace.step_s == pytest.approx(0.04, rel=0.05)


def test_accepted_drafts_bring_a_sequence_further_in_a_step() -> None:
    lately = Lately()
    lately.ran(0, 64, 0.1)
    for _ in range(50):
        lately.ran(2, 0, 0.03, accepted=3)
    assert lately.pace is not None
    assert lately.pace.advance == pytest.approx(2.5)


def test_the_cached_share_counts_tokens_not_prompts() -> None:
    lately = Lately()
    assert lately.cached_share == 0
    for _ in range(100):
        lately.started(900, 800)
        lately.started(100, 0)
    assert lately.cached_share == pytest.approx(0.8, rel=0.06)
