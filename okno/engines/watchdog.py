"""Is the worker alive? Pure: moments come as arguments, in seconds of a monotonic clock."""

from __future__ import annotations

from okno.engines.protocol import Heartbeat

LOAD_SILENCE_S = 600.0
STALL_S = 10.0


class Watchdog:
    """hang_timeout_s: without a pass of the loop for so long (longer for work that cannot be cut,
    Heartbeat.patience), a ready worker is hung. A loading one may be silent for ten minutes."""

    def __init__(self, hang_timeout_s: float, now: float) -> None:
        self.heartbeat: Heartbeat | None = None
        self._hang_timeout_s = hang_timeout_s
        self._moved = self._stepped = now

    def started(self, now: float) -> None:
        """A new worker begins to load, is loading, or is ready."""
        self._moved = self._stepped = now

    def buried(self) -> None:
        self.heartbeat = None

    def beat(self, beat: Heartbeat, now: float, *, busy: bool) -> None:
        """A heartbeat came. busy: requests are in flight, so that steps are expected."""
        before, self.heartbeat = self.heartbeat, beat
        if before is None or beat.loops != before.loops:
            self._moved = now
        if before is None or beat.steps != before.steps or not busy:
            self._stepped = now

    def slept(self, seconds: float) -> None:
        """We ourselves were suspended; that does not count against the worker."""
        self._moved += seconds

    def overdue(self, now: float, *, ready: bool) -> float | None:
        """The bound that was exceeded, in seconds; None while all is well."""
        patience = self.heartbeat.patience if self.heartbeat else 1.0
        bound = self._hang_timeout_s * patience if ready else LOAD_SILENCE_S
        return bound if now - self._moved > bound else None

    def stalled(self, now: float) -> bool:
        """No step for a while although requests are in flight."""
        return now - self._stepped > min(STALL_S, self._hang_timeout_s)
