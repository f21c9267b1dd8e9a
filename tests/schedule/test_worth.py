from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from okno.schedule.sequence import Sequence
from okno.schedule.worth import Ranking, Worths, rank

changes = st.lists(
    st.tuples(st.sampled_from(["add", "touch", "drop", "give up", "ask"]), st.integers(0, 9)),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(changes)
def test_the_ranking_finds_what_a_look_at_all_finds(changes: list[tuple[str, int]]) -> None:
    worths = Worths()
    sequences = [Sequence(f"s{k}", [1], max_tokens=2) for k in range(10)]
    inside: dict[str, Sequence] = {}
    ranking = Ranking(lambda s: s.id in inside)
    for what, number in changes:
        one = sequences[number]
        if what == "add":
            worths.touch(one, 20 * number)
            inside[one.id] = one
            ranking.add(one)
        elif what == "touch":
            one.hits += 1
            worths.touch(one, 20 * number)
        elif what == "drop":
            inside.pop(one.id, None)
        else:
            but = one if what == "ask" else None
            found = ranking.least(but)
            left = [s for s in inside.values() if s is not but]
            assert found is min(left, key=rank, default=None)
            if found is not None and what == "give up":
                worths.gave_up(found)
                del inside[found.id]


def test_those_that_left_are_forgotten() -> None:
    inside: set[str] = set()
    ranking = Ranking(lambda s: s.id in inside)
    for k in range(1000):
        inside = {f"s{k}"}
        ranking.add(Sequence(f"s{k}", [1], max_tokens=2))
    assert len(ranking) < 100


def test_what_was_of_use_is_worth_more_and_what_is_old_is_overtaken() -> None:
    worths = Worths()
    used, old, new = (Sequence(id, [1], max_tokens=2) for id in ("used", "old", "new"))
    used.hits = 1
    for sequence in (old, used):
        worths.touch(sequence, 100)
    assert rank(used) > rank(old)
    worths.gave_up(old)
    worths.gave_up(used)
    worths.touch(new, 100)
    assert rank(new) > rank(used)
