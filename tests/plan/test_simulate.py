from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.plan.simulate import Arrival, simulate
from okno.schedule.step import Limits

YEAR_S = 365 * 86_400.0
YEAR_ARRIVALS = 3000
LIMITS = Limits(batch_size=4, seq_ids=4, pool_cells=4096)


def per_row(rows, depths, outputs, *, parked_cells):
    """A machine that takes 10 ms a step and 1 ms a row."""
    return 0.010 + 0.001 * sum(rows)


def test_a_request_alone_waits_for_its_prompt_and_then_for_each_step() -> None:
    [outcome] = simulate([Arrival(1.0, 64, 5)], LIMITS, per_row)
    assert outcome.ttft_s == pytest.approx(0.074)
    assert outcome.itl_s == pytest.approx([0.011] * 4)
    assert outcome.finish_s == pytest.approx(1.0 + 0.074 + 4 * 0.011)


def test_a_full_batch_makes_the_next_one_wait() -> None:
    outcomes = simulate([Arrival(0.0, 16, 50) for _ in range(5)], LIMITS, per_row)
    first_to_finish = min(outcome.finish_s for outcome in outcomes[:4])
    assert outcomes[4].token_times_s[0] > first_to_finish


def test_a_long_prompt_is_cut_into_pieces_between_the_tokens_of_others() -> None:
    talker, reader = simulate(
        [Arrival(0.0, 16, 100), Arrival(0.1, 2000, 1)], LIMITS, per_row, step_tokens=2048
    )
    assert max(talker.itl_s) < 0.5
    assert reader.ttft_s > 2.0


def test_parked_cells_are_told_to_the_machine() -> None:
    parked: list[int] = []

    def watching(rows, depths, outputs, *, parked_cells):
        parked.append(parked_cells)
        return 0.01

    simulate([Arrival(0.0, 100, 2), Arrival(10.0, 50, 2)], LIMITS, watching)
    assert parked[0] == 0
    assert parked[-1] >= 100


def test_a_pool_too_small_for_all_still_serves_all() -> None:
    small = Limits(batch_size=4, seq_ids=4, pool_cells=300)
    outcomes = simulate([Arrival(0.0, 90, 40) for _ in range(4)], small, per_row)
    assert [len(outcome.token_times_s) for outcome in outcomes] == [40] * 4


ARRIVALS = st.builds(
    Arrival, at_s=st.floats(0, 5), prompt_tokens=st.integers(1, 300),
    new_tokens=st.integers(1, 30), client=st.sampled_from("ab"),
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(ARRIVALS, min_size=1, max_size=12))
def test_everyone_is_served_after_arriving_and_time_only_moves_on(arrivals: list[Arrival]) -> None:
    outcomes = simulate(arrivals, LIMITS, per_row)
    for arrival, outcome in zip(arrivals, outcomes, strict=True):
        assert outcome.arrival is arrival
        assert len(outcome.token_times_s) == arrival.new_tokens
        assert outcome.ttft_s > 0
        assert all(gap > 0 for gap in outcome.itl_s)


def test_a_year_of_load_ends_with_everybody_served_and_nothing_left_over() -> None:
    """Bursts and lulls of three clients, prompts from a word to more than a step."""
    source = np.random.default_rng(7)
    gaps = source.gamma(0.2, YEAR_S / YEAR_ARRIVALS / 0.2, YEAR_ARRIVALS)
    arrivals = [
        Arrival(float(at), int(prompt), int(new), client)
        for at, prompt, new, client in zip(
            np.cumsum(gaps), source.integers(1, 600, YEAR_ARRIVALS),
            source.integers(1, 8, YEAR_ARRIVALS), source.choice(list("abc"), YEAR_ARRIVALS),
            strict=True,
        )
    ]  # fmt: skip
    limits = Limits(batch_size=4, seq_ids=8, pool_cells=1500, host_bytes=4000)
    outcomes = simulate(arrivals, limits, per_row)
    assert arrivals[-1].at_s > 0.5 * YEAR_S
    for outcome in outcomes:
        assert len(outcome.token_times_s) == outcome.arrival.new_tokens
        assert outcome.token_times_s == sorted(outcome.token_times_s)
        assert outcome.ttft_s > 0
