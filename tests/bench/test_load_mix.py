from __future__ import annotations

import random
from statistics import fmean, median

import pytest

from okno.bench.load_mix import (
    BURSTGPT,
    LEAST_TOKENS,
    MOST_TOKENS,
    SHAREGPT,
    Lengths,
    LogNormal,
    parse_mix,
)
from okno.core.errors import BadSetting


def drawn(mix: str, count: int = 5_000, seed: int = 1) -> list[Lengths]:
    source, chosen = random.Random(seed), parse_mix(mix)
    return [chosen.draw(source) for _ in range(count)]


def test_a_fixed_mix_never_changes() -> None:
    assert set(drawn("fixed:128,64", 10)) == {Lengths(128, 64)}


def test_short_long_has_a_fifth_of_long_prompts() -> None:
    found = drawn("short-long")
    assert {lengths.prompt_words for lengths in found} == {40, 800}
    share = sum(lengths.prompt_words == 800 for lengths in found) / len(found)
    assert share == pytest.approx(0.2, abs=0.02)
    assert {lengths.max_tokens for lengths in found} == {32}
    assert {lengths.max_tokens for lengths in drawn("short-long:7", 5)} == {7}


def test_log_normal_lengths_have_the_median_and_mean_that_are_stated() -> None:
    source, lengths = random.Random(2), LogNormal.of_mean(100.0, 0.5)
    found = [lengths.draw(source) for _ in range(20_000)]
    assert fmean(found) == pytest.approx(100.0, rel=0.02)  # almost nothing of it is cut
    assert median(found) == pytest.approx(100.0 / 2.718281828**0.125, rel=0.02)


@pytest.mark.parametrize("mix", ["sharegpt", "burstgpt"])
def test_lengths_stay_within_the_cuts_and_repeat_by_seed(mix: str) -> None:
    found = drawn(mix)
    sizes = [size for lengths in found for size in (lengths.prompt_words, lengths.max_tokens)]
    assert LEAST_TOKENS <= min(sizes) < max(sizes) == MOST_TOKENS
    assert found == drawn(mix)
    assert found != drawn(mix, seed=2)


def test_the_two_traces_differ_as_they_do_in_life() -> None:
    """ShareGPT has longer answers than prompts, BurstGPT longer prompts than answers."""
    assert SHAREGPT.answer.mu > SHAREGPT.prompt.mu
    assert BURSTGPT.prompt.mu > BURSTGPT.answer.mu


@pytest.mark.parametrize(
    "text",
    ["", "fixed", "fixed:1", "fixed:0,5", "fixed:1,2,3", "fixed:-1,2", "fixed:a,b", "short-long:",
     "short-long:x", "short-long:1,2", "sharegpt:3", "fixed:" + "9" * 5000 + ",1", "chat"],
)  # fmt: skip
def test_what_is_no_mix_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(BadSetting, match=r"fixed:IN,OUT.*short-long.*sharegpt or burstgpt"):
        parse_mix(text)
