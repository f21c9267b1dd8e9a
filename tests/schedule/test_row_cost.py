from __future__ import annotations

import pytest

from okno.schedule.row_cost import FEW_SAMPLES, FORGOTTEN_AFTER, REFRESH_EVERY, RowCost


def learnt(*samples: tuple[int, float]) -> RowCost:
    cost = RowCost()
    for rows, seconds in samples:
        cost.learn(rows, seconds)
    return cost


def known(*figures: tuple[int, float]) -> RowCost:
    return learnt(*[figure for figure in figures for _ in range(FEW_SAMPLES)])


def test_before_anything_ran_nothing_is_known() -> None:
    assert RowCost().of(3) == 0.0
    assert not RowCost().is_known(3)


def test_between_two_counts_the_cost_is_drawn_straight() -> None:
    cost = known((1, 1.0), (5, 3.0))
    assert [cost.of(rows) for rows in (1, 2, 3, 5)] == pytest.approx([1.0, 1.5, 2.0, 3.0])


def test_a_dent_stays_a_dent() -> None:
    cost = learnt(*[(1, 1.0), (8, 5.0), (16, 4.0)] * 64)
    assert cost.of(8) > cost.of(16)


def test_fewer_rows_than_ran_are_no_reason_to_guess() -> None:
    """Only a prompt piece ran: one row seems as cheap as 1/64 of it, so no guess beside pays."""
    cost = known((64, 6.4))
    assert cost.of(1) == pytest.approx(0.1)
    assert cost.of(2) == pytest.approx(0.2)


def test_more_rows_than_ran_cost_something() -> None:
    cost = known((1, 1.0))
    assert 1.0 < cost.of(2) < 2.0


def test_a_first_slow_step_is_soon_forgotten_and_a_later_one_hardly_counts() -> None:
    cost = learnt((1, 9.0), (1, 1.1), (1, 1.0))
    assert cost.of(1) == pytest.approx(1.1)
    cost.learn(1, 50.0)
    assert cost.of(1) < 1.3


def test_one_lucky_count_among_many_is_not_believed() -> None:
    slow = [(rows, 0.5 + 0.5 * rows) for rows in range(1, 17)]
    cost = known(*slow[:8], (9, 1.0), *slow[9:])
    assert cost.of(9) > 3.0
    for _ in range(100):
        cost.learn(9, 1.0)
    assert cost.of(9) < 1.6


def test_a_change_that_stays_is_followed() -> None:
    cost = learnt(*[(1, 1.0)] * 20, *[(1, 3.0)] * 30)
    assert cost.of(1) == pytest.approx(3.0, rel=0.05)


def test_a_count_is_known_after_a_few_steps() -> None:
    cost = learnt(*[(2, 1.0)] * (FEW_SAMPLES - 1))
    assert not cost.is_known(2)
    cost.learn(2, 1.0)
    assert cost.is_known(2)


def test_a_first_impression_counts_for_nothing_yet() -> None:
    cost = known((1, 1.0))
    cost.learn(9, 90.0)
    assert cost.of(9) == known((1, 1.0)).of(9)


def test_a_figure_that_nothing_confirms_is_forgotten() -> None:
    """Else one bad moment would bar a row count for ever: nobody would try it again."""
    cost = known((1, 1.0), (9, 90.0))
    for _ in range(FORGOTTEN_AFTER + REFRESH_EVERY):
        cost.learn(1, 1.0)
    assert cost.of(9) < 9.0
    assert not cost.is_known(9)
