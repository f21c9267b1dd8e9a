"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a finaliser or a
weakref callback (an HTTP client runs some between two pieces of an answer) the exception is
printed and dropped, and the answer would go on. The mark left by the signal stays.
"""

from __future__ import annotations

import signal
from types import FrameType


class Interrupts:
    """Marks SIGINT beside raising it. `check` raises one that was dropped."""

    def __init__(self) -> None:
        self._pending = False

    def install(self) -> None:
        """Become the process's handler of SIGINT. Main thread only."""
        signal.signal(signal.SIGINT, self._on_signal)

    def forget(self) -> None:
        """What came before is handled."""
        self._pending = False

    def check(self) -> None:
        """Raise KeyboardInterrupt for a signal since the last `forget`."""
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._pending = True
        raise KeyboardInterrupt
