"""Long work that is ended from outside unwinds: nothing half done stays."""

from __future__ import annotations

import os
import signal

import pytest

from okno.cli.progress import working
from okno.cli.reporters import HumanReporter, ProgramReporter


@pytest.mark.parametrize(
    "shown",
    [working, HumanReporter().working, ProgramReporter().working],
    ids=["command", "person", "program"],
)
def test_termination_unwinds_the_work_as_an_interrupt_does(shown):
    before, unwound = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as raised:
        ended(shown, unwound)
    assert (raised.value.code, unwound) == (128 + signal.SIGTERM, [True])
    assert signal.getsignal(signal.SIGTERM) is before


def ended(shown, unwound: list[bool]) -> None:
    with shown() as progress:
        progress("Converting", 0, 10, None)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            unwound.append(True)
