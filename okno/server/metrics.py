"""Prometheus metrics: counters read from the engine at scrape time, latencies observed here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from okno.core.events import Delta, Finished
from okno.engines.client import EngineClient, EngineStatus
from okno.engines.tally import SHARES
from okno.server.metrics_steps import tally_metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("loading", "ready", "restarting", "quarantined", "stopped")
ITL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
E2E_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)

COUNTERS = {
    "submitted": "Requests submitted to the engine",
    "completed": "Requests answered to their end",
    "cancelled": "Requests whose client left",
    "rejected": "Requests refused before they ran",
    "failed": "Requests the engine failed",
    "prompt_tokens": "Prompt tokens of all requests",
    "cached_tokens": "Prompt tokens reused from the cache",
    "generated_tokens": "Tokens generated",
    "restarts": "Restarts of the worker",
}


class Metrics:
    """The registry of one server; `observer()` per HTTP request."""

    def __init__(self, engine: EngineClient) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more per metric
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine))
        self.ttft = self._histogram("ttft_seconds", "Arrival to first token", TTFT_BUCKETS)
        self.itl = self._histogram("itl_seconds", "Between tokens of one answer", ITL_BUCKETS)
        self.e2e = self._histogram("e2e_seconds", "Arrival to end of the answer", E2E_BUCKETS)
        self.queue = self._histogram("queue_seconds", "Waiting for a place", TTFT_BUCKETS)
        self.cached = self._histogram(
            "prompt_cached_ratio", "Tokens of a prompt that came from the cache", SHARES
        )

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"okno_{name}", about, buckets=buckets, registry=self.registry)

    def observer(self, choices: int) -> Latencies:
        return Latencies(self, choices)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Latencies:
    """Times of one HTTP request's choices, kept per token as plain numbers and given to the
    histograms when a choice ends: an observation costs more than a token's framing."""

    def __init__(self, metrics: Metrics, choices: int) -> None:
        self._metrics = metrics
        self._began_s = 0.0
        self._tokens_s: list[list[float]] = [[] for _ in range(choices)]

    def started(self) -> None:
        self._began_s = time.monotonic()

    def event(self, choice: int, event: Delta | Finished) -> None:
        times = self._tokens_s[choice]
        if isinstance(event, Delta):
            times.append(time.monotonic())
            return
        if times:
            self._metrics.ttft.observe(times[0] - self._began_s)
        for before, after in pairwise(times):
            self._metrics.itl.observe(after - before)
        self._metrics.e2e.observe(time.monotonic() - self._began_s)
        self._metrics.queue.observe(event.timings.queue_s)
        if event.usage.prompt_tokens:
            self._metrics.cached.observe(event.usage.cached_tokens / event.usage.prompt_tokens)


class EngineCollector(Collector):
    """EngineClient.status() as metrics, at the moment of the scrape."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        status = self._engine.status()
        for name, about in COUNTERS.items():
            yield CounterMetricFamily(f"okno_{name}", about, value=getattr(status, name))
        for name, (about, value) in gauges(status).items():
            yield GaugeMetricFamily(f"okno_{name}", about, value=value)
        yield from tally_metrics(status.tally)
        state = GaugeMetricFamily(
            "okno_state", "1 for the state the engine is in", labels=["state"]
        )
        for name in STATES:
            state.add_metric([name], float(status.state == name))
        yield state


def gauges(status: EngineStatus) -> dict[str, tuple[str, float]]:
    """Metric name: (help, value now)."""
    found = {
        "in_flight": ("Requests queued or running", float(status.in_flight)),
        "stalled": ("1 when no step completed within the hang bound", float(status.stalled)),
    }
    if beat := status.heartbeat:
        found |= {
            "live_sequences": ("Sequences decoded at once", float(beat.live)),
            "waiting_requests": ("Requests in the queue", float(beat.waiting)),
            "kv_used_tokens": ("Cells of the KV pool in use", float(beat.used_cells)),
            "kv_pool_tokens": ("Cells of the KV pool", float(beat.pool_cells)),
            "engine_steps": ("Decode steps of this worker", float(beat.steps)),
            "worker_bytes": ("Memory of the worker process", float(beat.process_bytes)),
        }
    if window := status.window:
        found |= {
            "batch_size": ("Sequences the window allows at once", float(window.batch_size)),
            "ctx_tokens": ("Tokens one request may see", float(window.ctx)),
        }
    if memory := status.memory:
        found |= {
            "weights_bytes": ("Memory of the weights", float(memory.weights_bytes)),
            "kv_bytes": ("Memory of the KV pool", float(memory.kv_bytes)),
        }
    return found
