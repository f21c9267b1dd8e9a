from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from okno.bench.canary import DIGITS, Canaries


def test_the_canary_of_another_client_is_found() -> None:
    canaries = Canaries(0)
    mine, other, third = canaries.issue(), canaries.issue(), canaries.issue()
    assert canaries.foreign(mine, f"Your code is {other}.") == {other}
    assert canaries.foreign(mine, f"{third}, {mine}, {other}") == {other, third}


def test_ones_own_canary_and_numbers_never_issued_are_no_leak() -> None:
    canaries = Canaries(0)
    mine = canaries.issue()
    assert canaries.foreign(mine, f"Your code is {mine}. 0123456789 4821") == set()


@given(before=st.text("0123456789", max_size=15), after=st.text("0123456789", max_size=15))
def test_a_canary_is_found_inside_a_longer_number(before: str, after: str) -> None:
    canaries = Canaries(0)
    mine, other = canaries.issue(), canaries.issue()
    assert other in canaries.foreign(mine, f"x{before}{other}{after}y")


def test_canaries_are_unique_and_repeat_with_their_seed() -> None:
    first, second = Canaries(3), Canaries(3)
    issued = [first.issue() for _ in range(1000)]
    assert len(set(issued)) == len(first) == 1000
    assert issued == [second.issue() for _ in range(1000)]
    assert all(len(number) == DIGITS for number in issued)
