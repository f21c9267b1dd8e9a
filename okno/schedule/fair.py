"""The fair queue: waiting sequences, taken from the client served least.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each
client has a counter of tokens served; the next sequence comes from the waiting client with the
lowest one. A client that was idle starts at the lowest counter of those that wait, so idling earns
no credit and costs none. Within a client: first come, first served. A preempted sequence goes
before all others, because its answer has begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from okno.schedule.sequence import Sequence


class FairQueue:
    """Sequences that wait for a slot. Order is decided anew at each look."""

    def __init__(self) -> None:
        self._resumed: deque[Sequence] = deque()
        self._by_client: dict[str, deque[Sequence]] = {}
        self._served: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._resumed) + sum(map(len, self._by_client.values()))

    def add(self, sequence: Sequence) -> None:
        line = self._by_client.get(sequence.client)
        if line is None:
            floor = min((self._served[c] for c in self._by_client), default=0.0)
            self._served[sequence.client] = max(self._served.get(sequence.client, 0.0), floor)
            line = self._by_client[sequence.client] = deque()
        line.append(sequence)

    def add_resumed(self, sequence: Sequence) -> None:
        """A preempted sequence, before all that wait; the oldest of them first."""
        self._resumed.append(sequence)
        self._resumed = deque(sorted(self._resumed, key=lambda s: s.arrival))

    def charge(self, client: str, tokens: int) -> None:
        """`client` was served `tokens` more."""
        self._served[client] = self._served.get(client, 0.0) + tokens

    def remove(self, sequence: Sequence) -> None:
        if sequence in self._resumed:
            self._resumed.remove(sequence)
            return
        line = self._by_client[sequence.client]
        line.remove(sequence)
        if not line:
            del self._by_client[sequence.client]
            self._forget_idle()

    def __iter__(self) -> Iterator[Sequence]:
        """All that wait, in the order in which they would be taken if each were served its
        prompt at once."""
        yield from self._resumed
        served = {client: self._served[client] for client in self._by_client}
        lines = {client: iter(line) for client, line in self._by_client.items()}
        while lines:
            client = min(lines, key=lambda c: (served[c], c))
            sequence = next(lines[client], None)
            if sequence is None:
                del lines[client]
                continue
            served[client] += len(sequence.known)
            yield sequence

    def _forget_idle(self) -> None:
        """Counters of clients that do not wait are kept only while they are above the floor of
        those that do; nobody waiting means a fresh start for all."""
        if not self._by_client:
            floor = max(self._served.values(), default=0.0)
        else:
            floor = min(self._served[c] for c in self._by_client)
        self._served = {c: v for c, v in self._served.items()
                        if c in self._by_client or v > floor}  # fmt: skip
