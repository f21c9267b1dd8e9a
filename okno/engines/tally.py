"""Counts of what the steps did, cumulative: a scrape that comes late or twice loses nothing.

The worker counts, each heartbeat carries the whole; the server adds up the workers that it had, so
that its metrics never fall when a worker is replaced (what a dead one counted after its last
heartbeat, a quarter of a second at most, is lost).
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

Bounds = tuple[float, ...]
STEP_ROWS: Bounds = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
STEP_SECONDS: Bounds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
SHARES: Bounds = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)


class Histogram(msgspec.Struct):
    """counts: observations up to each bound (and above the one before), the last one: above all
    bounds. total: their sum."""

    counts: list[int]
    total: float = 0.0

    @classmethod
    def over(cls, bounds: Bounds) -> Histogram:
        return cls([0] * (len(bounds) + 1))

    def observe(self, bounds: Bounds, value: float) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.total += value

    def __add__(self, other: Histogram) -> Histogram:
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Histogram(counts, self.total + other.total)


class Drafts(msgspec.Struct):
    """Guessed tokens that were computed, and those of them that were right."""

    checked: int = 0
    right: int = 0

    def __add__(self, other: Drafts) -> Drafts:
        return Drafts(self.checked + other.checked, self.right + other.right)


class Tally(msgspec.Struct):
    """rows, seconds, kv_share: per step (kv_share: cells in use of the pool's). decoding_steps: in
    which a sequence decoded; checking_steps: those of them that checked guesses. from_text,
    from_model: guessed from the sequences' own text, by a draft model. prefix_hits: requests whose
    prompt began in the cache."""

    rows: Histogram = msgspec.field(default_factory=lambda: Histogram.over(STEP_ROWS))
    seconds: Histogram = msgspec.field(default_factory=lambda: Histogram.over(STEP_SECONDS))
    kv_share: Histogram = msgspec.field(default_factory=lambda: Histogram.over(SHARES))
    preemptions: int = 0
    prefix_hits: int = 0
    decoding_steps: int = 0
    checking_steps: int = 0
    from_text: Drafts = msgspec.field(default_factory=Drafts)
    from_model: Drafts = msgspec.field(default_factory=Drafts)

    @property
    def drafts(self) -> Drafts:
        """From whichever source."""
        return self.from_text + self.from_model

    def step(self, rows: int, seconds: float, kv_share: float) -> None:
        self.rows.observe(STEP_ROWS, rows)
        self.seconds.observe(STEP_SECONDS, seconds)
        self.kv_share.observe(SHARES, kv_share)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.rows + other.rows,
            self.seconds + other.seconds,
            self.kv_share + other.kv_share,
            self.preemptions + other.preemptions,
            self.prefix_hits + other.prefix_hits,
            self.decoding_steps + other.decoding_steps,
            self.checking_steps + other.checking_steps,
            self.from_text + other.from_text,
            self.from_model + other.from_model,
        )


class TallyOfWorkers:
    """The tallies of all workers of one server, those that ended included."""

    def __init__(self) -> None:
        self._ended = Tally()
        self._running = Tally()

    def beat(self, tally: Tally) -> None:
        """What the running worker has counted so far."""
        self._running = tally

    def buried(self) -> None:
        """The worker ended; the next one begins at zero."""
        self._ended, self._running = self.total, Tally()

    @property
    def total(self) -> Tally:
        return self._ended + self._running
