"""Ctrl-C reaches the answer even where Python drops the exception."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from okno.cli.interrupts import Interrupts


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = signal.getsignal(signal.SIGINT)
    made = Interrupts()
    made.install()
    yield made
    signal.signal(signal.SIGINT, before)


class Finalised:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_dropped_in_a_finaliser_is_raised_at_the_next_piece(interrupts):
    thing = Finalised()
    del thing  # Python says "Exception ignored in ...", and goes on
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    interrupts.check()


def test_an_interrupt_is_raised_at_once_and_can_be_called_handled(interrupts):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    interrupts.forget()
    interrupts.check()


def test_without_a_signal_nothing_is_raised(interrupts):
    interrupts.check()
