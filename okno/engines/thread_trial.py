"""How many threads compute a step of a small model: whichever is faster here and now.

Where nothing else runs, all cores compute its steps of several rows up to twice as fast as one.
Where something does, a thread that waits for its turn holds up the others after every operation,
and a step takes twice as long as on one core (docs/decisions.md). So both are tried, the loser ever
more rarely, for each size of step. Pure: times are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TRIAL_STEPS = 4
FIRST_WAIT, LONGEST_WAIT = 16, 512  # steps between two trials
MEMORY = 32  # steps that a mean remembers, about
WORSE = 1.1  # times the other's mean: a trial at once
DEAR = 8.0  # times what a step takes: one such ends a trial
PAUSE_S = 0.01  # that pass before the next step, and more than BUSY times the step: nobody asked
BUSY = 4.0


@dataclass(slots=True)
class _Mean:
    """Seconds per row. A plain mean, with all that was strange: contention comes in bursts."""

    seconds: float = 0.0
    steps: int = 0

    def learn(self, seconds: float) -> None:
        self.steps += 1
        self.seconds += max(1 / MEMORY, 1 / self.steps) * (seconds - self.seconds)


@dataclass(slots=True)
class _Size:
    """Steps of about as many rows. used, other: what is used and what is tried, each either all
    threads or one. trying: steps that the trial under way still takes."""

    together: bool = True
    trying: int = 0
    left: int = TRIAL_STEPS
    wait: int = FIRST_WAIT
    used: _Mean = field(default_factory=_Mean)
    other: _Mean = field(default_factory=_Mean)

    @property
    def now_together(self) -> bool:
        return self.together != (self.trying > 0)

    def learn(self, seconds: float) -> None:
        if self.trying:
            self.other.learn(seconds)
            too_dear = seconds > DEAR * self.used.seconds
            self.trying = 0 if too_dear else self.trying - 1
            if not self.trying:
                self._settle()
            return
        self.used.learn(seconds)
        self.left -= 1
        is_worse = self.other.steps and self.used.seconds > WORSE * self.other.seconds
        if is_worse or self.left <= 0:
            self.trying = TRIAL_STEPS

    def _settle(self) -> None:
        if self.other.seconds < self.used.seconds:
            self.used, self.other = self.other, self.used
            self.together = not self.together
        self.left, self.wait = self.wait, min(2 * self.wait, LONGEST_WAIT)


class ThreadTrial:
    """Asked before each step of an engine, told after it. alone, together: numbers of threads."""

    def __init__(self, alone: int, together: int) -> None:
        self._alone, self._together = alone, together
        self._sizes: dict[int, _Size] = {}
        self._began_s = self._ended_s = 0.0
        self._ran: tuple[_Size, int] | None = None  # with its rows

    def begins(self, rows: int, now_s: float) -> int:
        """A step of `rows` begins: with so many threads. A row alone gets one at once."""
        self._learn(now_s)
        self._began_s, self._ran = now_s, None
        if rows == 1:
            return self._alone
        size = self._sizes.setdefault(rows.bit_length(), _Size())
        self._ran = size, rows
        return self._together if size.now_together else self._alone

    def ended(self, now_s: float) -> None:
        """The step has its results."""
        self._ended_s = now_s

    def _learn(self, now_s: float) -> None:
        """From the last step, and what it left of the processor to the rest of the server: from its
        beginning to that of the next one, if that followed without a pause."""
        if self._ran is None:
            return
        size, rows = self._ran
        computed_s = self._ended_s - self._began_s
        beside_s = now_s - self._ended_s
        paused = beside_s > max(PAUSE_S, BUSY * computed_s)
        size.learn((computed_s if paused else computed_s + beside_s) / rows)
