"""What is on its way to the loop through the preparing threads, and whose client left meanwhile."""

from __future__ import annotations

import threading

Key = str | int  # a request's id or a call's number


class Arrivals:
    """Thread-safe. begin → (gone) → arrived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._preparing: set[Key] = set()
        self._gone: set[Key] = set()

    def begin(self, key: Key) -> None:
        """The reader took it in; a preparing thread will bring it."""
        with self._lock:
            self._preparing.add(key)

    def gone(self, key: Key) -> None:
        """Its client left. Without effect unless it is being prepared."""
        with self._lock:
            if key in self._preparing:
                self._gone.add(key)

    def arrived(self, key: Key) -> bool:
        """It is here, or could not be prepared; True if somebody still wants it."""
        with self._lock:
            self._preparing.discard(key)
            wanted = key not in self._gone
            self._gone.discard(key)
            return wanted
