from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from okno.schedule.fair import FairQueue
from okno.schedule.sequence import Sequence


def waiting(id: str, client: str = "", tokens: int = 10) -> Sequence:
    return Sequence(id, [1] * tokens, max_tokens=tokens + 5, client=client)


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
