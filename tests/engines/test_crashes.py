from __future__ import annotations

from okno.engines.crashes import (
    HOPELESS_DEATHS,
    HOPELESS_LOADS,
    LONG_LIFE_S,
    MAX_BACKOFF_S,
    CrashPolicy,
)


def died(policy: CrashPolicy, times: int, ready_for_s: float | None = 1.0) -> CrashPolicy:
    for _ in range(times):
        policy.died(ready_for_s=ready_for_s)
    return policy


def test_deaths_in_a_row_are_hopeless_at_the_limit() -> None:
    assert not died(CrashPolicy(), HOPELESS_DEATHS - 1).hopeless
    assert died(CrashPolicy(), HOPELESS_DEATHS).hopeless


def test_deaths_while_loading_are_hopeless_sooner() -> None:
    assert not died(CrashPolicy(), HOPELESS_LOADS - 1, None).hopeless
    assert died(CrashPolicy(), HOPELESS_LOADS, None).hopeless


def test_an_answer_ends_the_row() -> None:
    policy = died(CrashPolicy(), HOPELESS_DEATHS - 1)
    policy.progressed()
    assert not died(policy, HOPELESS_DEATHS - 1).hopeless


def test_being_ready_ends_the_row_of_loads() -> None:
    policy = died(CrashPolicy(), HOPELESS_LOADS - 1, None)
    policy.became_ready()
    assert not died(policy, HOPELESS_LOADS - 1, None).hopeless


def test_a_convicted_request_clears_a_model_that_is_known_to_work() -> None:
    proven, unproven = CrashPolicy(), CrashPolicy()
    proven.progressed()
    for policy in (proven, unproven):
        died(policy, 3).convicted()
        died(policy, 2)
    assert not proven.hopeless
    assert unproven.hopeless


def test_a_long_life_starts_a_new_row() -> None:
    policy = died(CrashPolicy(), HOPELESS_DEATHS - 1)
    assert not died(policy, 1, LONG_LIFE_S + 1).hopeless


def test_the_wait_doubles_up_to_a_bound() -> None:
    policy = CrashPolicy()
    waits = []
    for _ in range(12):
        policy.died(ready_for_s=1.0)
        waits.append(policy.backoff_s)
    assert waits[1] == 2 * waits[0]
    assert waits[-1] == MAX_BACKOFF_S
    assert waits == sorted(waits)
