"""Long work that is ended from outside unwinds: nothing half done stays."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest

from okno.cli.progress import working
from okno.cli.reporters import HumanReporter, ProgramReporter
from tests.cli.support import ROOT, clean_environment
from tests.convert.small import small_checkpoint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "shown",
    [working, HumanReporter().working, ProgramReporter().working],
    ids=["command", "person", "program"],
)
def test_termination_unwinds_the_work_as_an_interrupt_does(shown, number):
    before, unwound = signal.getsignal(number), []
    with pytest.raises(SystemExit) as raised:
        ended(shown, number, unwound)
    assert (raised.value.code, unwound) == (128 + number, [True])
    assert signal.getsignal(number) is before


def ended(shown, number: int, unwound: list[bool]) -> None:
    with shown() as progress:
        progress("Converting", 0, 10, None)
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # another one does not stop the unwinding
            unwound.append(True)


def test_what_nohup_started_goes_on_when_the_terminal_is_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with working():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


HELD = """
import os, sys
from pathlib import Path
from okno.cli.progress import working
from okno.convert.ready import engine_ready
from okno.convert.wants import Wants
def progress(stage, done, total, left_s):
    if done:
        os.write(1, b"half way\\n")
        sys.stdin.readline()
with working():
    engine_ready(Path(sys.argv[1]), Wants(), progress)
"""


def test_a_conversion_in_a_terminal_that_is_closed_leaves_nothing(tmp_path):
    checkpoint = small_checkpoint(tmp_path / "Saiga")
    controller, terminal = pty.openpty()
    environment = clean_environment(OKNO_DATA_DIR=str(tmp_path / "data"))
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(checkpoint)], env=environment, stdin=terminal,
        stdout=subprocess.PIPE, stderr=terminal, start_new_session=True, cwd=ROOT,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        os.close(terminal)
        assert process.stdout.readline() == b"half way\n"
        kept = tmp_path / "data" / "converted"
        assert [path.suffix for path in kept.glob("*") if path.is_file()] == [".part"]
        os.close(controller)  # the system sends SIGHUP
        assert process.wait(60) != 0
    assert [path for path in kept.glob("*") if path.is_file()] == []
