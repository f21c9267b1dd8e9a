from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from okno.schedule.shares import SHORT_STEPS, Shares, Want


def shared_rows(wants: list[Want], rows: int) -> list[int]:
    """Of one step that nothing went before."""
    return Shares().of_step(wants, rows)


def test_one_client_is_served_in_turn() -> None:
    assert shared_rows([Want("a", 1, 50), Want("a", 1, 50)], 64) == [50, 14]


def test_a_short_prompt_beside_long_ones_gets_all_it_wants() -> None:
    wants = [Want("flood", 1, 800), Want("flood", 1, 800), Want("other", 1, 20)]
    assert shared_rows(wants, 60) == [40, 0, 20]


def test_clients_share_evenly_and_by_weight() -> None:
    assert shared_rows([Want("a", 1, 900), Want("b", 1, 900)], 60) == [30, 30]
    assert shared_rows([Want("a", 1, 900), Want("b", 4, 900)], 60) == [12, 48]


def test_whoever_wants_its_share_of_a_few_steps_has_it_at_once() -> None:
    wants = [Want("flood", 1, 800), Want("other", 1, 40)]
    assert shared_rows(wants, 25) == [3, 22]
    assert shared_rows([Want("flood", 1, 775), Want("other", 1, 18)], 25) == [7, 18]
    assert shared_rows([Want("flood", 1, 800), Want("other", 1, 128)], 25) == [3, 22]
    assert shared_rows([Want("flood", 1, 800), Want("other", 1, 129)], 25) == [13, 12]
    assert shared_rows([Want("flood", 1, 800), Want("other", 1, 200)], 128) == [16, 112]
    assert shared_rows([Want("a", 1, 40), Want("b", 1, 40)], 60) == [40, 20]  # all are short


def test_a_piece_of_a_long_prompt_is_not_short() -> None:
    assert shared_rows([Want("a", 1, 900), Want("b", 1, 30, 870)], 60) == [30, 30]


def test_short_prompts_one_after_another_leave_a_long_one_its_part() -> None:
    flood = [Want("long", 1, 800), *(Want(f"short{n}", 1, 10) for n in range(20))]
    assert shared_rows(flood, 64)[0] == 8


def test_nobody_goes_before_one_that_weighs_more() -> None:
    """One small prompt after another would leave it an eighth of the rows, not four fifths."""
    urgent = Want("long", 4, 800)
    assert shared_rows([urgent, Want("other", 1, 40)], 64) == [52, 12]
    assert shared_rows([Want("long", 1, 800), Want("urgent", 4, 40)], 64) == [24, 40]
    assert shared_rows([urgent, Want("other", 1, 12), Want("third", 4, 40)], 64) == [20, 4, 40]


def stream_of_small_prompts(shares: Shares, steps: int, rows: int = 64, size: int = 50) -> int:
    """Rows that a long prompt gets beside a client that sends one small prompt after another."""
    got, small = 0, 0
    for _ in range(steps):
        small = small or size
        long, other = shares.of_step([Want("long", 1, 10_000), Want("small", 1, small)], rows)
        got, small = got + long, small - other
    return got


def test_one_small_prompt_after_another_is_ahead_by_its_share_of_a_few_steps_at_most() -> None:
    for steps in (5, 50, 500):
        even = stream_of_small_prompts(Shares(), steps, size=10_000)
        assert stream_of_small_prompts(Shares(), steps) >= even - SHORT_STEPS * 64


def test_who_waited_may_go_first_again() -> None:
    shares, long, small = Shares(), Want("long", 1, 10_000), Want("small", 1, 50)
    stream_of_small_prompts(shares, 100)
    assert shares.of_step([long, small], 64) == [32, 32]
    for _ in range(2 * SHORT_STEPS):
        shares.of_step([long], 64)
    assert shares.of_step([long, small], 64) == [14, 50]


def test_what_went_before_nobody_is_not_counted() -> None:
    shares, small = Shares(), Want("small", 1, 50)
    for _ in range(100):
        shares.of_step([small], 64)
    assert shares.of_step([Want("long", 1, 10_000), small], 64) == [14, 50]


@given(st.integers(1, 64), st.integers(1, 12))
def test_whoever_is_first_in_turn_has_a_row_of_every_step(rows: int, shorts: int) -> None:
    flood = [Want("long", 1, 800), *(Want(f"short{n}", 1, 1) for n in range(shorts))]
    assert shared_rows(flood, rows)[0] >= 1


WANTS = st.lists(
    st.builds(Want, st.sampled_from("abc"), st.sampled_from([0.25, 1.0, 4.0]), st.integers(1, 200)),
    max_size=12,
)


@given(WANTS, st.integers(-3, 300))
def test_no_row_is_lost_and_nobody_gets_more_than_wanted(wants: list[Want], rows: int) -> None:
    given_rows = shared_rows(wants, rows)
    assert sum(given_rows) == min(max(0, rows), sum(want.rows for want in wants))
    assert all(0 <= got <= want.rows for got, want in zip(given_rows, wants, strict=True))
