from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from okno.engines.guess_cost import KEPT_STEPS, GuessCost
from okno.schedule.cost import Ahead


class Learner:
    """A step of as many milliseconds as it has rows and hundreds of cells."""

    def __init__(self, factor: float = 1.0) -> None:
        self.asked: list[int] = []
        self.factor = factor

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        self.asked.append(guesses)
        rows = ahead.decodes + prompt_rows + guesses
        return self.factor * (rows + ahead.decode_cells / 100) / 1e3


def cost_of(learner: Learner) -> tuple[GuessCost, Any]:
    engine = SimpleNamespace(learner=learner)
    return GuessCost(cast("Any", engine)), engine


def ahead(decodes: int = 1, cells: int = 1000) -> Ahead:
    return Ahead(decodes=decodes, decode_cells=cells)


def all_of(cost: GuessCost, step: Ahead, prompt_rows: int = 0) -> list[float]:
    return [cost.seconds(step, prompt_rows, guesses) for guesses in range(5)]


def test_what_was_asked_for_the_last_step_is_not_asked_again() -> None:
    learner = Learner()
    cost, _ = cost_of(learner)
    first = all_of(cost, ahead())
    assert first == [(1 + guesses + 10) / 1e3 for guesses in range(5)]
    assert all_of(cost, ahead(cells=1001))[1:] == first[1:]
    assert learner.asked == [0, 1, 2, 3, 4, 0]


def test_another_step_is_asked_about_anew() -> None:
    learner = Learner()
    cost, engine = cost_of(learner)
    all_of(cost, ahead())
    for step, prompt_rows in ((ahead(cells=1100), 0), (ahead(2), 0), (ahead(2), 3)):
        assert all_of(cost, step, prompt_rows) == all_of(cost_of(Learner())[0], step, prompt_rows)
    engine.learner = Learner(2.0)  # a resize brings another one
    doubled = [2 * seconds for seconds in all_of(cost_of(Learner())[0], ahead(2), 3)]
    assert all_of(cost, ahead(2), 3) == doubled


def test_what_drifts_slowly_is_asked_about_in_time() -> None:
    cost, _ = cost_of(Learner())
    for cells in range(1000, 3000):
        given = all_of(cost, ahead(cells=cells))
        true = all_of(cost_of(Learner())[0], ahead(cells=cells))
        assert all(abs(a - b) <= 0.01 * b for a, b in zip(given, true, strict=True))


def test_what_the_steps_teach_is_known_a_few_steps_later() -> None:
    learner = Learner()
    cost, _ = cost_of(learner)
    for _ in range(KEPT_STEPS):
        all_of(cost, ahead())
    assert learner.asked.count(4) == 1
    all_of(cost, ahead())
    assert learner.asked.count(4) == 2


def test_one_that_was_not_asked_without_guesses_first_is_right_too() -> None:
    cost, _ = cost_of(Learner())
    all_of(cost, ahead())
    assert cost.seconds(ahead(3), 0, 2) == (3 + 2 + 10) / 1e3
