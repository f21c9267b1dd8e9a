"""The fair queue: waiting sequences, taken from the client served least.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each
client has a counter of tokens served, divided by the weight of what was served; the next sequence
comes from the waiting client with the lowest one. A client that was idle starts at the lowest
counter of those that wait, so idling earns no credit and costs none.

Within a client a sequence is due when as many rows were computed since it came as it needs itself
(divided by its weight). Short ones pass long ones, and a long one is passed only until as much work
was done as it takes: nobody starves. A preempted sequence goes before all others, because its
answer has begun.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator

from okno.schedule.sequence import Sequence

REMEMBERED_CLIENTS = 1024  # idle clients whose counters are kept


class FairQueue:
    """Sequences that wait for a slot. The order is decided anew at each look."""

    def __init__(self) -> None:
        self._resumed: list[Sequence] = []
        self._by_client: dict[str, list[Sequence]] = {}
        self._served: OrderedDict[str, float] = OrderedDict()  # last charged last
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, sequence: Sequence) -> None:
        self._count += 1
        line = self._by_client.get(sequence.client)
        if line is None:
            floor = min((self._served[c] for c in self._by_client), default=0.0)
            self._served[sequence.client] = max(self._served.get(sequence.client, 0.0), floor)
            line = self._by_client[sequence.client] = []
        insort(line, sequence, key=_turn)

    def add_resumed(self, sequence: Sequence) -> None:
        """A preempted sequence, before all that wait; the oldest of them first."""
        self._count += 1
        insort(self._resumed, sequence, key=lambda s: s.arrival)

    def charge(self, client: str, tokens: float) -> None:
        """`client` was served `tokens` more (divided by their weight)."""
        self._served[client] = self._served.get(client, 0.0) + tokens
        self._served.move_to_end(client)
        self._forget_idle()

    def remove(self, sequence: Sequence) -> None:
        self._count -= 1
        if sequence in self._resumed:
            self._resumed.remove(sequence)
            return
        line = self._by_client[sequence.client]
        line.remove(sequence)
        if not line:
            del self._by_client[sequence.client]
            if not self._by_client:
                self._served.clear()  # nobody waits: a fresh start for all

    def __iter__(self) -> Iterator[Sequence]:
        """All that wait, in the order in which they would be taken if each were served its
        prompt at once. Each step costs the logarithm of the number of clients. The queue must
        not change meanwhile."""
        yield from self._resumed
        heap = [(self._served[client], client) for client in self._by_client]
        heapq.heapify(heap)
        lines = {client: iter(line) for client, line in self._by_client.items()}
        while heap:
            served, client = heap[0]
            sequence = next(lines[client], None)
            if sequence is None:
                heapq.heappop(heap)
                continue
            cost = len(sequence.known) / sequence.weight
            heapq.heapreplace(heap, (served + cost, client))
            yield sequence

    def _forget_idle(self) -> None:
        """Bound the memory of clients that do not wait: the longest idle are forgotten."""
        if len(self._served) <= 2 * len(self._by_client) + 2 * REMEMBERED_CLIENTS:
            return
        idle = [client for client in self._served if client not in self._by_client]
        for client in idle[: len(idle) - REMEMBERED_CLIENTS]:
            del self._served[client]


def _turn(sequence: Sequence) -> tuple[float, int]:
    return sequence.due, sequence.arrival
