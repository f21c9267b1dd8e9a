"""When requests arrive: Poisson, or Gamma gaps that come in bursts; the same for the same seed."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

from okno.core.errors import BadSetting

MOST_REQUESTS = 100_000


def arrivals(rate_per_s: float, burstiness: float, seed: int) -> Iterator[float]:
    """Seconds of each arrival after the start, without end; the first comes at 0.

    Gaps are Gamma distributed with shape `burstiness` and mean 1 / rate: 1 is a Poisson process,
    less comes in bursts, more is steadier (the parameter of `vllm bench serve --burstiness`).
    An infinite rate: all at 0.
    """
    source = random.Random(f"arrivals {seed}")
    scale = 1 / (rate_per_s * burstiness)
    now = 0.0
    while True:
        yield now
        now += source.gammavariate(burstiness, scale) if scale else 0.0


def arrival_times(
    rate_per_s: float, burstiness: float, seed: int, *, requests: int | None, duration_s: float
) -> list[float]:
    """The arrivals of a run: at most `requests` of them, all before `duration_s`.

    Raises BadSetting for a run without an end and for one of more than MOST_REQUESTS.
    """
    endless = requests is None and math.isinf(rate_per_s)
    if endless or (requests is None and math.isinf(duration_s)):
        raise BadSetting(
            "Such a load has no end. Say how many with --requests N.", param="--requests"
        )
    expected = rate_per_s * duration_s
    if (expected if requests is None else min(requests, expected)) > MOST_REQUESTS:
        raise BadSetting(
            f"That is more than {MOST_REQUESTS:,} requests. Lower --rate, --duration or "
            "--requests.", param="--requests",
        )  # fmt: skip
    times = itertools.takewhile(
        lambda second: second < duration_s, arrivals(rate_per_s, burstiness, seed)
    )
    return list(itertools.islice(times, requests))
