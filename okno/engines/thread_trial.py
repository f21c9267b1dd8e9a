"""How many threads compute a step of a small model: whichever is faster here and now.

Where nothing else runs, all cores compute its steps of several rows up to twice as fast as one.
Where something does, a thread that waits for its turn holds up the others after every operation,
and a step takes twice as long as on one core (docs/decisions.md). So both are tried, the loser ever
more rarely, for each size of step. Pure: times are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from okno.engines.llama_threads import Threads

TRIAL_STEPS = 4
FIRST_WAIT, LONGEST_WAIT = 16, 512  # steps between two trials
NEWEST = 0.1  # the share of the newest step in the mean
STRANGE = 8.0  # times the mean, as which a step counts at most
BUSY = 4.0  # a step that follows later than after so many times its own duration followed a pause


@dataclass(slots=True)
class _Mean:
    """Seconds per row."""

    seconds: float = 0.0

    def learn(self, seconds: float) -> None:
        if not self.seconds:
            self.seconds = seconds
        self.seconds += NEWEST * (min(seconds, STRANGE * self.seconds) - self.seconds)


@dataclass(slots=True)
class _Size:
    """Steps of about as many rows. together: what is used; trying: the other is."""

    together: bool = True
    trying: bool = False
    left: int = TRIAL_STEPS
    wait: int = FIRST_WAIT
    used: _Mean = field(default_factory=_Mean)
    tried: _Mean = field(default_factory=_Mean)

    @property
    def now_together(self) -> bool:
        return self.together != self.trying

    def learn(self, seconds: float) -> None:
        (self.tried if self.trying else self.used).learn(seconds)
        self.left -= 1
        if self.left:
            return
        if not self.trying:
            self.trying, self.left, self.tried = True, TRIAL_STEPS, _Mean()
            return
        self.trying, self.wait = False, min(2 * self.wait, LONGEST_WAIT)
        if self.tried.seconds < self.used.seconds:
            self.together, self.used, self.wait = not self.together, self.tried, FIRST_WAIT
        self.left = self.wait


class ThreadTrial:
    """Asked before each step of an engine, told after it."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._sizes: dict[int, _Size] = {}
        self._began_s = self._ended_s = 0.0
        self._ran: tuple[_Size, int] | None = None  # with its rows

    def begins(self, rows: int, now_s: float) -> int:
        """A step of `rows` begins: with so many threads. A row alone gets one at once."""
        self._learn(now_s)
        self._began_s, self._ran = now_s, None
        if rows == 1:
            return self._threads.alone
        size = self._sizes.setdefault(rows.bit_length(), _Size())
        self._ran = size, rows
        return self._threads.together if size.now_together else self._threads.alone

    def ended(self, now_s: float) -> None:
        """The step has its results."""
        self._ended_s = now_s

    def _learn(self, now_s: float) -> None:
        """From the last step, and what it left of the processor to the rest of the server: from its
        beginning to that of the next one, if that followed at once."""
        if self._ran is None:
            return
        size, rows = self._ran
        passed_s = now_s - self._began_s
        if passed_s <= BUSY * (self._ended_s - self._began_s):
            size.learn(passed_s / rows)
