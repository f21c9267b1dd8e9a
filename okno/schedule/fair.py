"""The fair queue: waiting sequences, taken from the client served least.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each
client has a counter of tokens served, divided by the weight of what was served; the next sequence
comes from the waiting client with the lowest one. A client that was idle starts at the lowest
counter of those that wait, so idling earns no credit and costs none.

Within a client a sequence is due when PATIENCE times as many rows were computed since it came as it
needs itself (divided by its weight). Short ones pass long ones, and a long one is passed only until
that much work was done: under more load than the machine can do all wait about as many times what
they take, and nobody starves. A preempted sequence goes before all others, because its answer has
begun.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Iterator

from okno.schedule.sequence import Sequence

REMEMBERED_CLIENTS = 1024  # idle clients whose counters are kept
PATIENCE = 4.0


class FairQueue:
    """Sequences that wait for a slot. The order is decided anew at each look, from a heap with one
    entry for each client that waits (or did): counters only rise, so an entry that is out of date
    is too low, and is brought up to date when it comes to the top."""

    def __init__(self) -> None:
        self._resumed: list[Sequence] = []
        self._by_client: dict[str, list[Sequence]] = {}
        self._by_id: dict[str, Sequence] = {}
        self._served: OrderedDict[str, float] = OrderedDict()  # last charged last
        self._heap: list[tuple[float, str]] = []
        self._in_heap: set[str] = set()
        self._weights: Counter[float] = Counter()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, id: str) -> Sequence | None:
        """The sequence of this id, if it waits."""
        return self._by_id.get(id)

    @property
    def heaviest(self) -> float:
        """The largest weight that waits; 0 when nobody does."""
        return max(self._weights, default=0.0)

    def firsts(self) -> Iterator[Sequence]:
        """The first of each client, those served least first; resumed ones before."""
        yield from self._resumed
        heap = self._heap.copy()
        while heap:
            if self._is_current(heap):
                yield self._by_client[heapq.heappop(heap)[1]][0]

    def place(self, sequence: Sequence) -> int:
        """How many are before `sequence`, which waits, in the order of `__iter__`: there each
        client's line is merged by what the client will have been served until then."""
        if sequence in self._resumed:
            return self._resumed.index(sequence)
        place, own = len(self._resumed), sequence.client
        turn = self._turn_of(sequence)
        for client, line in self._by_client.items():
            served = self._served[client]
            for one in line:
                if served > turn or (served == turn and client >= own):
                    break
                place += 1
                served += len(one.known) / one.weight  # _cost without a call: hundreds wait
        return place

    def _turn_of(self, sequence: Sequence) -> float:
        """What its client will have been served when its turn comes."""
        served = self._served[sequence.client]
        for one in self._by_client[sequence.client]:
            if one is sequence:
                break
            served += _cost(one)
        return served

    def add(self, sequence: Sequence) -> None:
        client = sequence.client
        line = self._by_client.get(client)
        if line is None:
            least = self._least_served()
            floor = 0.0 if least is None else self._served[least]
            served = self._served[client] = max(self._served.get(client, 0.0), floor)
            line = self._by_client[client] = []
            if client not in self._in_heap:
                self._in_heap.add(client)
                heapq.heappush(self._heap, (served, client))
        self._put(sequence)
        insort(line, sequence, key=_turn)

    def add_resumed(self, sequence: Sequence) -> None:
        """A preempted sequence, before all that wait; the oldest of them first."""
        self._put(sequence)
        insort(self._resumed, sequence, key=lambda s: s.arrival)

    def _put(self, sequence: Sequence) -> None:
        self._by_id[sequence.id] = sequence
        self._weights[sequence.weight] += 1

    def charge(self, client: str, tokens: float) -> None:
        """`client` was served `tokens` more (divided by their weight)."""
        served = self._served
        served[client] = served.get(client, 0.0) + tokens
        served.move_to_end(client)
        if len(served) > 2 * len(self._by_client) + 2 * REMEMBERED_CLIENTS:
            self._forget_idle()

    def remove(self, sequence: Sequence) -> None:
        del self._by_id[sequence.id]
        self._weights[sequence.weight] -= 1
        if not self._weights[sequence.weight]:
            del self._weights[sequence.weight]
        if sequence in self._resumed:
            self._resumed.remove(sequence)
            return
        line = self._by_client[sequence.client]
        line.remove(sequence)
        if not line:
            del self._by_client[sequence.client]
            if not self._by_client:  # nobody waits: a fresh start for all
                self._served.clear()
                self._rebuild()

    def __iter__(self) -> Iterator[Sequence]:
        """All that wait, in the order in which they would be taken if each were served its
        prompt at once. Each step costs the logarithm of the number of clients. The queue must
        not change meanwhile."""
        yield from self._resumed
        heap = self._heap.copy()
        lines: dict[str, Iterator[Sequence]] = {}
        while heap:
            served, client = heap[0]
            if client not in lines:
                if not self._is_current(heap):
                    continue
                lines[client] = iter(self._by_client[client])
            sequence = next(lines[client], None)
            if sequence is None:
                heapq.heappop(heap)
                continue
            heapq.heapreplace(heap, (served + _cost(sequence), client))
            yield sequence

    def _least_served(self) -> str | None:
        """The waiting client that was served least."""
        heap = self._heap
        while heap:
            client = heap[0][1]
            if self._is_current(heap):
                return client
            if client not in self._by_client:
                self._in_heap.remove(client)
        return None

    def _is_current(self, heap: list[tuple[float, str]]) -> bool:
        """The top of `heap` is a client that waits, with its counter of now; else it is dropped or
        brought up to date."""
        served, client = heap[0]
        if client not in self._by_client:
            heapq.heappop(heap)
            return False
        now = self._served[client]
        if now == served:
            return True
        heapq.heapreplace(heap, (now, client))
        return False

    def _forget_idle(self) -> None:
        """Bound the memory of clients that do not wait: the longest idle are forgotten."""
        idle = [client for client in self._served if client not in self._by_client]
        for client in idle[: len(idle) - REMEMBERED_CLIENTS]:
            del self._served[client]
        self._rebuild()

    def _rebuild(self) -> None:
        """The heap of those that wait, without what it remembers of others."""
        self._in_heap = set(self._by_client)
        self._heap = [(self._served[client], client) for client in self._in_heap]
        heapq.heapify(self._heap)


def _cost(sequence: Sequence) -> float:
    """What its client is charged when it starts."""
    return len(sequence.known) / sequence.weight


def due_at(sequence: Sequence, worked: float) -> float:
    """When it is due that comes when `worked` rows were computed."""
    return worked + PATIENCE * _cost(sequence)


def _turn(sequence: Sequence) -> tuple[float, int]:
    return sequence.due, sequence.arrival
