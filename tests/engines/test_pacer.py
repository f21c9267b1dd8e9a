from __future__ import annotations

from okno.engines.pacer import ALONE_S, FIRST_ROWS, LEAST_ROWS, MIXED_S, Pacer


def test_the_first_piece_is_small() -> None:
    assert Pacer(512).prompt_rows(mixed=False) == FIRST_ROWS
    assert Pacer(16).prompt_rows(mixed=False) == 16


def test_pieces_take_the_time_they_may() -> None:
    pacer = Pacer(10_000)
    pacer.learn(100, 1.0)
    assert pacer.prompt_rows(mixed=True) == int(MIXED_S * 100)
    assert pacer.prompt_rows(mixed=False) == int(ALONE_S * 100)


def test_pieces_never_exceed_the_step_nor_vanish() -> None:
    fast, slow = Pacer(256), Pacer(256)
    fast.learn(100, 1e-6)
    slow.learn(100, 1e3)
    assert fast.prompt_rows(mixed=False) == 256
    assert slow.prompt_rows(mixed=True) == LEAST_ROWS


def test_it_follows_a_machine_that_gets_slower() -> None:
    pacer = Pacer(10_000)
    pacer.learn(100, 0.1)
    before = pacer.prompt_rows(mixed=True)
    for _ in range(20):
        pacer.learn(100, 1.0)
    assert pacer.prompt_rows(mixed=True) < before / 5


def test_steps_of_a_few_rows_teach_nothing_about_prompts() -> None:
    pacer = Pacer(256)
    pacer.learn(2, 5.0)
    assert pacer.prompt_rows(mixed=False) == FIRST_ROWS
