"""What to do about a worker's deaths: how long to wait, and when to give up. Pure."""

from __future__ import annotations

MAX_BACKOFF_S = 5.0
FIRST_BACKOFF_S = 0.1
HOPELESS_DEATHS = 5  # in a row, without a token or a vector in between
HOPELESS_LOADS = 3  # in a row, before the model was ready
LONG_LIFE_S = 60.0  # a worker that was ready so long starts a new row


class CrashPolicy:
    """Counts deaths in a row. `proven`: this model has produced something since the start."""

    def __init__(self) -> None:
        self.deaths = 0
        self.loading_deaths = 0
        self.proven = False

    def progressed(self) -> None:
        """The worker produced a token or a vector."""
        self.deaths = 0
        self.proven = True

    def became_ready(self) -> None:
        self.loading_deaths = 0

    def died(self, *, ready_for_s: float | None) -> None:
        """ready_for_s: how long the model had been ready; None if it never was."""
        if ready_for_s is None:
            self.loading_deaths += 1
        elif ready_for_s > LONG_LIFE_S:
            self.deaths = 0
        self.deaths += 1

    def convicted(self) -> None:
        """A request was found to be the cause; the model itself is not to blame if it is
        known to work."""
        if self.proven:
            self.deaths = 0

    @property
    def hopeless(self) -> bool:
        return self.deaths >= HOPELESS_DEATHS or self.loading_deaths >= HOPELESS_LOADS

    @property
    def backoff_s(self) -> float:
        """Wait before the next start: doubles with each death in a row."""
        return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** max(0, self.deaths - 1))
