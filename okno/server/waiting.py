"""What a client is told while its request waits: response headers, comments in its stream."""

from __future__ import annotations

from collections.abc import Sequence

from okno.core.events import Accepted, Queued

POSITION = "okno-queue-position"
WAIT = "okno-estimated-wait-s"


def waiting_headers(accepted: Sequence[Accepted]) -> dict[str, str]:
    """Of the last of a request's choices to begin. 0 for both: it begins at once. Without an
    estimate (no step was measured yet) there is no header for it."""
    headers = {POSITION: str(max(a.queue_position for a in accepted))}
    waits_s = [a.wait_s for a in accepted if a.wait_s is not None]
    if len(waits_s) == len(accepted):
        headers[WAIT] = f"{max(waits_s):.1f}"
    return headers


class QueueComments:
    """Comments of a stream until the first of its choices begins. Its place is that of the last."""

    def __init__(self, accepted: Sequence[Accepted]) -> None:
        self._places = [a.queue_position for a in accepted]
        self._waits_s = [a.wait_s for a in accepted]
        self._said = max(self._places)
        self._begun = False

    def begin(self) -> None:
        """A token came: no more comments."""
        self._begun = True

    def moved(self, choice: int, event: Queued) -> bytes:
        """The comment on a new place of `choice`; b"" if that of the whole request is the same."""
        self._places[choice], self._waits_s[choice] = event.position, event.wait_s
        position = max(self._places)
        if self._begun or position == self._said:
            return b""
        self._said = position
        wait_s = self._waits_s[self._places.index(position)]
        estimate = "" if wait_s is None else f" wait_s={wait_s:.1f}"
        return f": queued position={position}{estimate}\n\n".encode()
