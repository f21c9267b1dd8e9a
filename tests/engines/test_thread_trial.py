"""Which number of threads a small model's steps get, on a made-up machine."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from okno.engines.thread_trial import FIRST_WAIT, LONGEST_WAIT, TRIAL_STEPS, ThreadTrial

ALONE, TOGETHER = 1, 2


@dataclass
class Computer:
    """Steps of `rows` rows take 1 ms with one thread, and so many with two; a share of those
    waits for another process, so long."""

    together_ms: float
    waiting: tuple[float, float] = (0.0, 0.0)
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    rows: int = 16
    beside_ms: float = 0.2
    now_s: float = 0.0
    trial: ThreadTrial = field(default_factory=lambda: ThreadTrial(ALONE, TOGETHER))

    def step(self) -> int:
        threads = self.trial.begins(self.rows, self.now_s)
        self.now_s += self.taken_ms(threads) / 1000
        self.trial.ended(self.now_s)
        self.now_s += self.beside_ms / 1000
        return threads

    def taken_ms(self, threads: int) -> float:
        share, waiting_ms = self.waiting
        if threads == ALONE:
            return 1.0
        return waiting_ms if self.rng.random() < share else self.together_ms

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


@pytest.mark.parametrize(
    "waiting", [(0.02, 250.0), (0.05, 60.0), (0.05, 20.0), (0.1, 10.0), (0.2, 20.0)]
)
def test_waits_that_come_in_bursts_count_in_full(waiting: tuple[float, float]) -> None:
    """Most steps are faster with two threads; on average they are not."""
    computer = Computer(0.6, waiting, beside_ms=0.0)
    computer.steps(20_000)
    assert computer.now_s < 20 * 1.35


def test_what_changes_is_noticed() -> None:
    computer = Computer(2.5)
    computer.steps(5_000)
    computer.together_ms = 0.6
    computer.steps(16 * LONGEST_WAIT)
    assert computer.steps(100)[TOGETHER] > 80
    computer.together_ms = 2.5
    computer.steps(100)
    assert computer.steps(100)[ALONE] > 80, "what is used is watched in every step"


def test_a_trial_ends_with_its_first_dear_step() -> None:
    computer = Computer(0.6)
    computer.steps(100)
    computer.together_ms = 100.0
    computer.steps(2_000)
    assert computer.steps(LONGEST_WAIT + 1)[TOGETHER] <= 1


def test_what_the_server_does_beside_does_not_blind_it() -> None:
    """Steps of 0.6 and 1 ms between 3.5 ms of other work."""
    computer = Computer(2.5, beside_ms=3.5)
    computer.steps(100)
    assert computer.steps(200)[ALONE] > 180


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
