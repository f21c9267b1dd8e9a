from __future__ import annotations

from okno.schedule.pacer import ALONE_S, LEAST_ROWS, LONGEST_S, MIXED_S, TILE_ROWS, Pacer


def learnt(row_s: float, most: int = 10_000) -> Pacer:
    pacer = Pacer(most)
    pacer.learn(100, 100 * row_s)
    return pacer


def test_the_first_piece_is_one_tile() -> None:
    assert Pacer(512).prompt_rows(mixed=False) == TILE_ROWS
    assert Pacer(16).prompt_rows(mixed=False) == 16


def test_pieces_take_the_time_they_may_in_whole_tiles() -> None:
    for mixed, seconds in ((True, MIXED_S), (False, ALONE_S)):
        rows = learnt(1e-3).prompt_rows(mixed=mixed)
        assert rows % TILE_ROWS == 0
        assert seconds * 1000 - TILE_ROWS < rows <= seconds * 1000


def test_a_tile_is_not_cut_while_it_is_not_too_long() -> None:
    assert learnt(LONGEST_S / TILE_ROWS * 0.99).prompt_rows(mixed=True) == TILE_ROWS


def test_on_a_slow_machine_a_piece_keeps_to_its_time() -> None:
    slow = learnt(0.02)
    assert slow.prompt_rows(mixed=False) == 25
    assert slow.prompt_rows(mixed=True) == 10


def test_pieces_never_exceed_the_step_nor_vanish() -> None:
    assert learnt(1e-8, most=256).prompt_rows(mixed=False) == 256
    assert learnt(10.0, most=256).prompt_rows(mixed=True) == LEAST_ROWS


def test_it_follows_a_machine_that_gets_slower() -> None:
    pacer = learnt(1e-3)
    before = pacer.prompt_rows(mixed=False)
    for _ in range(20):
        pacer.learn(100, 10.0)
    assert pacer.prompt_rows(mixed=False) < before / 5


def test_steps_of_a_few_rows_teach_nothing_about_prompts() -> None:
    pacer = Pacer(256)
    pacer.learn(2, 5.0)
    assert pacer.prompt_rows(mixed=False) == TILE_ROWS
