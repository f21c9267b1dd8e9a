"""The steps' tally (engines/tally.py) as Prometheus metrics, at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from okno.engines.tally import SHARES, STEP_ROWS, STEP_SECONDS, Bounds, Histogram, Tally


def tally_metrics(tally: Tally) -> Iterator[Metric]:
    yield histogram("step_rows", "Rows (tokens computed) of a step", STEP_ROWS, tally.rows)
    yield histogram(
        "step_seconds", "Time of a step, sampling included", STEP_SECONDS, tally.seconds
    )
    yield histogram(
        "kv_use_ratio", "Cells in use of the KV pool's, at each step", SHARES, tally.kv_share
    )
    for name, about, value in (
        ("preemptions", "Sequences sent back to wait because the KV pool was full",
         tally.preemptions),
        ("prefix_hits", "Requests whose prompt began in the cache", tally.prefix_hits),
        ("decoding_steps", "Steps in which a sequence decoded", tally.decoding_steps),
        ("checking_steps", "Steps that checked guessed tokens", tally.checking_steps),
    ):  # fmt: skip
        yield CounterMetricFamily(f"okno_{name}", about, value=value)
    yield from _drafts(tally)


def _drafts(tally: Tally) -> Iterator[Metric]:
    """Guessed tokens by who guessed: the sequences' own text, or a model."""
    sources = {"text": tally.from_text, "model": tally.from_model}
    checked = CounterMetricFamily(
        "okno_drafted_tokens", "Guessed tokens that were computed", labels=["source"]
    )
    right = CounterMetricFamily(
        "okno_accepted_draft_tokens", "Guessed tokens that were right", labels=["source"]
    )
    for source, drafts in sources.items():
        checked.add_metric([source], drafts.checked)
        right.add_metric([source], drafts.right)
    yield checked
    yield right


def histogram(name: str, about: str, bounds: Bounds, found: Histogram) -> HistogramMetricFamily:
    """Prometheus counts the observations up to each bound, those of smaller bounds included."""
    limits = [*map(floatToGoString, bounds), "+Inf"]
    buckets = list(zip(limits, map(float, accumulate(found.counts)), strict=True))
    return HistogramMetricFamily(f"okno_{name}", about, buckets=buckets, sum_value=found.total)
