"""What the engine counts, as Prometheus reads it: the only file that imports prometheus_client.

The numbers stay where they are counted; they are read when somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from serve.metrics import EngineMetrics, Histogram
from serve.service import CompletionService, Status
from turbopilot.version import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"  # every Prometheus reads it
# How requests end; all are told from the start, so that a rate can be taken of the first one.
REASONS: Final = ("stop", "length", "cancelled", "error", "superseded", "deadline")


def registry(service: CompletionService) -> CollectorRegistry:
    """Everything there is to tell of a service and its process (memory, processor time, open files)."""
    registry = CollectorRegistry()
    registry.register(_Served(service))
    ProcessCollector(registry=registry)
    return registry


def text(registry: CollectorRegistry) -> bytes:
    """The numbers as they are now."""
    return generate_latest(registry)


class _Served(Collector):
    def __init__(self, service: CompletionService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        m, status = self._service.metrics, self._service.status
        info = {"version": __version__, "model": self._service.model.name}
        yield InfoMetricFamily("turbopilot_server", "The program and what it serves.", info)
        yield from _requests(m, status)
        yield from _tokens(m)
        yield from _work(m)
        yield from _memory(m)
        yield _histogram(
            "queue", "Seconds from a request to its first computation.", m.queue_seconds
        )
        yield _histogram(
            "first_token", "Seconds from a request to its first token.", m.first_token_seconds
        )
        yield _histogram("token", "Seconds from one token to the next.", m.token_seconds)


def _requests(m: EngineMetrics, status: Status) -> Iterator[Metric]:
    yield _gauge("requests_running", "Requests that are computed now.", status.running)
    yield _gauge("requests_waiting", "Requests in the queue now.", status.waiting)
    ended = CounterMetricFamily(
        "turbopilot_requests", "Requests that ended, by how.", labels=["reason"]
    )
    finished = dict.fromkeys(REASONS, 0) | m.finished.copy()
    for reason, n in finished.items():
        ended.add_metric([reason], n)
    yield ended
    yield _counter("refused", "Calls that were refused because the queue was full.", status.refused)
    yield _counter("engine_restarts", "Times that the engine broke and went on.", status.restarts)


def _tokens(m: EngineMetrics) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        "turbopilot_tokens",
        "Tokens: of prompts (of these: cached, and of these: restored from the prefix cache), generated (of "
        "these: known from before), computed ahead of a wish, drafted (of these: accepted).",
        labels=["kind"],
    )
    for kind in (
        "prompt",
        "cached",
        "restored",
        "generated",
        "known",
        "ahead",
        "drafted",
        "accepted",
    ):
        tokens.add_metric([kind], getattr(m, f"{kind}_tokens"))
    yield tokens


def _work(m: EngineMetrics) -> Iterator[Metric]:
    yield _counter("batches", "Batches computed.", m.steps)
    yield _counter(
        "batch_tokens", "Tokens in them; by batches, it is how full they are.", m.batch_tokens
    )
    yield _counter(
        "batch_sequences",
        "Requests in them; by batches, it is how many are computed together.",
        m.batch_sequences,
    )
    yield _counter("decode_seconds", "Seconds spent in computing them.", m.decode_seconds)
    yield _counter("decode_failures", "Batches that failed.", m.failures)
    yield _counter("context_rebuilds", "Times that the context was made anew.", m.rebuilds)


def _memory(m: EngineMetrics) -> Iterator[Metric]:
    yield _gauge("kv_cells", "Tokens that the KV cache can hold.", m.n_cells)
    yield _gauge("kv_cells_used", "Tokens that it holds now.", m.used_cells)
    yield _gauge("prefix_cache_bytes", "RAM that computed prefixes take.", m.stored_bytes)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"turbopilot_{name}", what, value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(f"turbopilot_{name}", what, value)


def _histogram(name: str, what: str, h: Histogram) -> Metric:
    buckets = [("+Inf" if math.isinf(bound) else str(bound), n) for bound, n in h.cumulative()]
    return HistogramMetricFamily(f"turbopilot_{name}_seconds", what, buckets, h.sum)
