"""Prompts side by side: the fluid against steps of whole rows, shared as the scheduler shares."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.schedule.shares import SHORT_STEPS, Shares, Want
from okno.schedule.wait_prompts import Prompt, Underway

PIECE = 600  # so that whole rows are little to round
WEIGHTS = {"a": 1.0, "b": 4.0, "c": 0.25, "d": 1.0}


def prompt(client: str, due: float, rows: float) -> Prompt:
    return Prompt(client, WEIGHTS[client], due, rows, 0, 0)


def underway(*prompts: Prompt) -> Underway:
    found = Underway(PIECE)
    for one in prompts:
        found.add(one)
    return found


def by_steps(prompts: list[Prompt]) -> dict[int, int]:
    """In which step each is done when the scheduler shares whole rows."""
    left = {id(one): math.ceil(one.rows) for one in prompts}
    shares, done = Shares(), dict[int, int]()
    step = 0
    while any(left.values()):
        step += 1
        turn = sorted((one for one in prompts if left[id(one)]), key=lambda one: one.due)
        wants = [Want(one.client, one.weight, left[id(one)]) for one in turn]
        for one, rows in zip(turn, shares.of_step(wants, PIECE), strict=True):
            left[id(one)] -= rows
            if not left[id(one)]:
                done[id(one)] = step
    return done


PROMPTS = st.lists(
    st.builds(prompt, st.sampled_from("abcd"), st.integers(0, 10**6), st.integers(1, 20_000)),
    min_size=1, max_size=8, unique_by=lambda one: one.due,
)  # fmt: skip


@given(PROMPTS)
def test_each_is_done_when_the_scheduler_is(prompts: list[Prompt]) -> None:
    expected = by_steps(prompts)
    for step, one in underway(*prompts).done():
        slack = 2 + SHORT_STEPS  # short ones pass
        assert abs(step - expected[id(one)]) <= slack + 0.05 * expected[id(one)]


@given(PROMPTS, st.floats(0, 50))
def test_time_that_passes_changes_no_end(prompts: list[Prompt], steps: float) -> None:
    whole = {id(one): step for step, one in underway(*prompts).done()}
    course = underway(*prompts)
    over = course.passed(steps)
    found = {id(one): step for step, one in over}
    found |= {id(one): steps + step for step, one in course.done()}
    assert found == pytest.approx(whole, abs=1e-6)
    assert len(course) == len(prompts) - len(over)


def test_one_waits_for_those_of_its_client_that_are_due_before() -> None:
    course = underway(prompt("a", 5, 6000), prompt("a", 9, 600))
    assert course.first_row("a", 5) == 10
    assert course.first_row("a", 10) == 11
    assert course.first_row("a", 1) == course.first_row("b", 99) == 0
