from __future__ import annotations

import itertools
import math
from statistics import fmean, pstdev

import pytest

from okno.bench.load_arrivals import MOST_REQUESTS, arrival_times, arrivals
from okno.core.errors import BadSetting


def gaps(rate: float, burstiness: float, seed: int = 1, count: int = 20_000) -> list[float]:
    times = list(itertools.islice(arrivals(rate, burstiness, seed), count + 1))
    return [b - a for a, b in itertools.pairwise(times)]


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_the_mean_gap_is_the_rate_whatever_the_burstiness(burstiness: float) -> None:
    assert fmean(gaps(5.0, burstiness)) == pytest.approx(1 / 5, rel=0.05)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_the_spread_of_gamma_gaps_follows_the_burstiness(burstiness: float) -> None:
    found = gaps(5.0, burstiness)
    assert pstdev(found) / fmean(found) == pytest.approx(1 / math.sqrt(burstiness), rel=0.06)


def test_poisson_gaps_are_exponential() -> None:
    found = gaps(2.0, 1.0)
    for seconds in (0.1, 0.5, 1.5):
        share = sum(gap > seconds for gap in found) / len(found)
        assert share == pytest.approx(math.exp(-2.0 * seconds), abs=0.01)


def test_a_seed_repeats_its_arrivals_and_another_does_not() -> None:
    assert gaps(1.0, 1.0, 3, 50) == gaps(1.0, 1.0, 3, 50) != gaps(1.0, 1.0, 4, 50)


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert arrival_times(math.inf, 1.0, 0, requests=4, duration_s=math.inf) == [0.0] * 4


def test_a_run_ends_with_its_requests_or_its_time() -> None:
    every = arrival_times(10.0, 1.0, 0, requests=None, duration_s=30.0)
    assert 200 < len(every) < 400
    assert max(every) < 30.0
    assert arrival_times(10.0, 1.0, 0, requests=5, duration_s=30.0) == every[:5]


@pytest.mark.parametrize(
    ("rate", "requests", "duration"),
    [(math.inf, None, 60.0), (1.0, None, math.inf), (1.0, MOST_REQUESTS + 1, math.inf),
     (1e9, None, 60.0)],
)  # fmt: skip
def test_a_run_without_an_end_is_refused(
    rate: float, requests: int | None, duration: float
) -> None:
    with pytest.raises(BadSetting, match="requests"):
        arrival_times(rate, 1.0, 0, requests=requests, duration_s=duration)
