from __future__ import annotations

from okno.bench.load_prompts import Prompts, words


def test_a_prompt_has_so_many_words() -> None:
    prompts = Prompts(0)
    assert [len(prompts.prompt(n, n).split()) for n in (1, 2, 3, 40, 800)] == [1, 2, 3, 40, 800]


def test_no_two_prompts_begin_alike() -> None:
    prompts = Prompts(5)
    count = len(words()) + 200
    openings = {tuple(prompts.prompt(n, 10).split()[:2]) for n in range(count)}
    assert len(openings) == count
    first = {prompts.prompt(n, 10).split()[0] for n in range(len(words()))}
    assert len(first) == len(words())


def test_a_shared_prefix_is_all_that_is_shared() -> None:
    prompts = Prompts(5, shared_prefix_words=30)
    one, other = (prompts.prompt(n, 10).split() for n in (0, 1))
    assert len(one) == len(other) == 40
    assert one[:30] == other[:30]
    assert one[30] != other[30]


def test_a_seed_repeats_its_prompts_and_another_shares_nothing() -> None:
    assert Prompts(1, 8).prompt(3, 20) == Prompts(1, 8).prompt(3, 20)
    assert Prompts(1).prompt(3, 20) != Prompts(2).prompt(3, 20)
    assert Prompts(1, 8).prompt(3, 20).split()[:8] != Prompts(2, 8).prompt(3, 20).split()[:8]
