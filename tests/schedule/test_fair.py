from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from okno.schedule.fair import REMEMBERED_CLIENTS, FairQueue
from okno.schedule.sequence import Sequence


def waiting(
    id: str, client: str = "", tokens: int = 10, *, due: float = 0.0, weight: float = 1.0
) -> Sequence:
    sequence = Sequence(id, [1] * tokens, max_tokens=tokens + 5, client=client, weight=weight)
    sequence.due = due
    return sequence


def order(queue: FairQueue) -> list[str]:
    return [sequence.id for sequence in queue]


def filled(*sequences: Sequence) -> FairQueue:
    queue = FairQueue()
    for sequence in sequences:
        queue.add(sequence)
    return queue


def test_one_client_is_served_in_order_of_arrival() -> None:
    assert order(filled(waiting("a"), waiting("b"), waiting("c"))) == ["a", "b", "c"]


def test_clients_alternate_by_tokens_not_by_requests() -> None:
    queue = filled(
        waiting("big1", "big", 100), waiting("big2", "big", 100),
        waiting("s1", "small", 40), waiting("s2", "small", 40), waiting("s3", "small", 40),
    )  # fmt: skip
    assert order(queue) == ["big1", "s1", "s2", "s3", "big2"]


def test_the_client_served_less_comes_first() -> None:
    queue = filled(waiting("a", "greedy"), waiting("b", "modest"))
    queue.charge("greedy", 500)
    assert order(queue) == ["b", "a"]


def test_idling_earns_no_credit() -> None:
    queue = filled(waiting("a", "busy"))
    queue.charge("busy", 1000)
    queue.add(waiting("n1", "new"))
    queue.add(waiting("n2", "new"))
    assert order(queue) == ["a", "n1", "n2"]


def test_a_preempted_sequence_goes_first_the_oldest_of_them_before() -> None:
    queue = filled(waiting("a"))
    for arrival, id in ((7, "young"), (3, "old")):
        sequence = waiting(id)
        sequence.arrival = arrival
        queue.add_resumed(sequence)
    assert order(queue) == ["old", "young", "a"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=20))
def test_everybody_who_waits_is_listed_once_and_can_be_removed(
    entries: list[tuple[str, int]],
) -> None:
    sequences = [waiting(f"{k}", client, size) for k, (client, size) in enumerate(entries)]
    queue = filled(*sequences)
    assert sorted(order(queue), key=int) == [s.id for s in sequences]
    for sequence in sequences:
        queue.remove(sequence)
        assert sequence.id not in order(queue)
    assert len(queue) == 0


def test_within_a_client_the_one_that_is_due_first_goes_first() -> None:
    queue = filled(waiting("long", due=500), waiting("short", due=20), waiting("next", due=20))
    assert order(queue) == ["short", "next", "long"]


def test_weighty_requests_count_less_against_their_client() -> None:
    queue = filled(
        waiting("a1", "a", 40, weight=4.0), waiting("a2", "a", 40, weight=4.0),
        waiting("b1", "b", 15), waiting("b2", "b", 15),
    )  # fmt: skip
    assert order(queue) == ["a1", "b1", "a2", "b2"]


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(1, 50), st.floats(0, 100),
        st.sampled_from([0.25, 1.0, 4.0]), st.integers(0, 30),
    ),
    max_size=25,
)  # fmt: skip


@given(ENTRIES)
def test_the_order_is_that_of_a_naive_reference(
    entries: list[tuple[str, int, float, float, int]],
) -> None:
    """Whoever was served least of all clients, charged as they are taken; ties by name."""
    queue = FairQueue()
    served: dict[str, float] = {}
    lines: dict[str, list[Sequence]] = {}
    for k, (client, tokens, due, weight, charged) in enumerate(entries):
        sequence = waiting(str(k), client, tokens, due=due, weight=weight)
        sequence.arrival = k
        if client not in lines:
            floor = min((served[c] for c in lines), default=0.0)
            served[client] = max(served.get(client, 0.0), floor)
        queue.add(sequence)
        lines.setdefault(client, []).append(sequence)
        queue.charge(client, charged)
        served[client] += charged
    expected = []
    while any(lines.values()):
        client = min((c for c in lines if lines[c]), key=lambda c: (served[c], c))
        first = min(lines[client], key=lambda s: (s.due, s.arrival))
        lines[client].remove(first)
        served[client] += len(first.known) / first.weight
        expected.append(first.id)
    assert order(queue) == expected


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "resume", "take", "remove", "charge"]),
        st.sampled_from("abcd"), st.integers(1, 50), st.sampled_from([0.25, 1.0, 4.0]),
    ),
    max_size=60,
)  # fmt: skip


@given(CHANGES)
def test_first_place_and_order_agree_whatever_came_before(
    changes: list[tuple[str, str, int, float]],
) -> None:
    """Beside a queue that is made anew from the same counters each time."""
    queue = FairQueue()
    here: dict[str, Sequence] = {}
    for k, (what, client, number, weight) in enumerate(changes):
        if what in ("add", "resume"):
            sequence = here[str(k)] = waiting(str(k), client, number, weight=weight)
            sequence.arrival = k
            queue.add(sequence) if what == "add" else queue.add_resumed(sequence)
        elif what == "charge":
            queue.charge(client, number / weight)
        elif here:
            first = next(queue.firsts(), None)
            assert first is not None
            taken = first if what == "take" else here[sorted(here)[number % len(here)]]
            queue.remove(here.pop(taken.id))
        listed = list(queue)
        assert sorted(s.id for s in listed) == sorted(here)
        assert next(queue.firsts(), None) is (listed[0] if listed else None)
        heads = {c: line[0] for c, line in queue._by_client.items()}
        in_turn = sorted(heads, key=lambda c: (queue._served[c], c))
        assert [*queue.firsts()] == [*queue._resumed, *(heads[c] for c in in_turn)]
        assert [queue.place(sequence) for sequence in listed] == list(range(len(listed)))
        assert all(queue.get(id) is sequence for id, sequence in here.items())
        assert queue.get("nobody") is None
        assert order(queue) == by_counters(queue)


def by_counters(queue: FairQueue) -> list[str]:
    """The order that the counters of now give, with no memory of how they came to be."""
    served = dict(queue._served)
    lines = {client: list(line) for client, line in queue._by_client.items()}
    expected = [sequence.id for sequence in queue._resumed]
    while any(lines.values()):
        client = min((c for c in lines if lines[c]), key=lambda c: (served[c], c))
        first = lines[client].pop(0)
        served[client] += len(first.known) / first.weight
        expected.append(first.id)
    return expected


def test_a_client_that_was_forgotten_comes_back_without_its_old_counter() -> None:
    """Its old entry in the order, far too high, must not stay."""
    queue = filled(waiting("a", "here"))
    queue.add(waiting("b", "busy"))
    queue.charge("busy", 10_000)
    assert order(queue) == ["a", "b"]
    assert next(queue.firsts(), None) is next(iter(queue)), "the order has met the counter"
    queue.remove(next(s for s in queue if s.id == "b"))
    for number in range(3 * REMEMBERED_CLIENTS):
        queue.charge(f"passing {number}", 1)
    queue.charge("here", 500)
    queue.add(waiting("c", "busy"))
    queue.add(waiting("d", "here"))
    assert order(queue) == ["c", "a", "d"] == by_counters(queue)
