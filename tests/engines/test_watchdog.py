from __future__ import annotations

from okno.engines.protocol import Heartbeat
from okno.engines.watchdog import LOAD_SILENCE_S, STALL_S, Watchdog


def beat(loops: int, steps: int = 0, patience: float = 1.0) -> Heartbeat:
    return Heartbeat(loops, steps, 0, 0, 0, 0, 0, 0, patience)


def test_a_loop_that_moves_is_alive_however_long_it_idles() -> None:
    dog = Watchdog(10, 0)
    for second in range(100):
        dog.beat(beat(second), second, busy=False)
        assert dog.overdue(second, ready=True) is None


def test_a_loop_that_stands_still_is_overdue_after_the_bound() -> None:
    dog = Watchdog(10, 0)
    for second in range(12):
        dog.beat(beat(5), second, busy=True)
    assert dog.overdue(10, ready=True) is None
    assert dog.overdue(10.5, ready=True) == 10


def test_silence_is_overdue_too() -> None:
    assert Watchdog(10, 0).overdue(11, ready=True) == 10


def test_loading_may_be_silent_longer() -> None:
    dog = Watchdog(10, 0)
    assert dog.overdue(LOAD_SILENCE_S - 1, ready=False) is None
    assert dog.overdue(LOAD_SILENCE_S + 1, ready=False) == LOAD_SILENCE_S


def test_work_that_cannot_be_cut_gets_patience() -> None:
    dog = Watchdog(10, 0)
    dog.beat(beat(1, patience=10), 0, busy=True)
    assert dog.overdue(99, ready=True) is None
    assert dog.overdue(101, ready=True) == 100


def test_our_own_sleep_is_not_the_workers() -> None:
    dog = Watchdog(10, 0)
    dog.slept(3600)
    assert dog.overdue(3605, ready=True) is None


def test_stalled_means_no_step_while_there_is_work() -> None:
    dog = Watchdog(60, 0)
    dog.beat(beat(1, steps=7), 0, busy=True)
    dog.beat(beat(2, steps=7), STALL_S + 1, busy=True)
    assert dog.stalled(STALL_S + 1)
    dog.beat(beat(3, steps=8), STALL_S + 2, busy=True)
    assert not dog.stalled(STALL_S + 2)
    dog.beat(beat(4, steps=8), 100, busy=False)
    assert not dog.stalled(100)
