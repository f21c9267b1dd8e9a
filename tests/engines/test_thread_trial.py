"""Which number of threads a small model's steps get, on a made-up machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest

from okno.engines.llama_threads import Threads
from okno.engines.thread_trial import FIRST_WAIT, LONGEST_WAIT, TRIAL_STEPS, ThreadTrial

ALONE, TOGETHER = 1, 2


@dataclass
class Computer:
    """Steps of `rows` rows take 1 ms with one thread, and so many with two."""

    together_ms: float
    rows: int = 16
    beside_ms: float = 0.2
    now_s: float = 0.0
    trial: ThreadTrial = field(default_factory=lambda: ThreadTrial(Threads(ALONE, TOGETHER)))

    def step(self) -> int:
        threads = self.trial.begins(self.rows, self.now_s)
        self.now_s += (self.together_ms if threads == TOGETHER else 1.0) / 1000
        self.trial.ended(self.now_s)
        self.now_s += self.beside_ms / 1000
        return threads

    def steps(self, count: int) -> Counter[int]:
        return Counter(self.step() for _ in range(count))


@pytest.mark.parametrize(("together_ms", "better"), [(0.6, TOGETHER), (2.5, ALONE)])
def test_the_faster_one_is_found_at_once_and_the_other_tried_ever_more_rarely(
    together_ms: float, better: int
) -> None:
    computer = Computer(together_ms)
    computer.steps(2 * TRIAL_STEPS)
    first, later = computer.steps(5 * FIRST_WAIT), computer.steps(20 * LONGEST_WAIT)
    assert first[better] > 0.8 * first.total()
    assert later[better] > 0.98 * later.total()
    assert later[better] < later.total(), "the other may have become the better one"


def test_what_changes_is_noticed() -> None:
    computer = Computer(2.5)
    computer.steps(5_000)
    computer.together_ms = 0.6
    computer.steps(2 * LONGEST_WAIT)
    assert computer.steps(100)[TOGETHER] > 80
    computer.together_ms = 2.5
    computer.steps(2 * LONGEST_WAIT)
    assert computer.steps(100)[ALONE] > 80


def test_time_that_passes_beside_the_engine_counts() -> None:
    """The second thread spins while the server wants to work."""
    computer = Computer(0.9)

    def step() -> int:
        threads = computer.step()
        computer.now_s += 0.0003 * (threads == TOGETHER)
        return threads

    assert Counter(step() for _ in range(5_000))[ALONE] > 4_500


def test_a_pause_is_no_part_of_a_step() -> None:
    computer = Computer(0.6)
    computer.steps(40)
    for _ in range(20):
        computer.step()
        computer.now_s += 60.0
    assert computer.steps(100)[TOGETHER] > 80


def test_each_size_of_step_has_its_own_and_one_row_goes_alone() -> None:
    slow = Computer(2.5, rows=4)
    fast = Computer(0.6, rows=64, trial=slow.trial)
    slow.steps(100)
    fast.now_s = slow.now_s
    assert fast.steps(100)[TOGETHER] > 80
    slow.now_s = fast.now_s
    assert slow.steps(100)[ALONE] > 80
    alone = Computer(0.1, rows=1, trial=slow.trial, now_s=slow.now_s)
    assert alone.steps(100) == {ALONE: 100}
