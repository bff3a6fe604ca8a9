"""What the engine counts, as Prometheus reads it: the only file that imports prometheus_client.

The numbers stay where they are counted; they are read when somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from serve.models import ModelPool
from serve.models.service import ModelStatus
from turbopilot.base.version import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"  # every Prometheus reads it
# How requests end; all are told from the start, so that a rate can be taken of the first one.
REASONS: Final = ("stop", "length", "cancelled", "error", "superseded", "deadline")


@dataclass(frozen=True, slots=True)
class _Counted:
    """What one loaded model has counted since it was loaded."""

    name: str
    metrics: EngineMetrics
    status: ModelStatus


def registry(models: ModelPool) -> CollectorRegistry:
    """Everything there is to tell of models and their process (memory, processor time, open files)."""
    registry = CollectorRegistry()
    registry.register(_Served(models))
    ProcessCollector(registry=registry)
    return registry


def text(registry: CollectorRegistry) -> bytes:
    """The numbers as they are now."""
    return generate_latest(registry)


class _Served(Collector):
    """Each number of an engine is labelled with its model. An unloaded one tells nothing, and begins at 0 again."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        yield from _pool(self._models)
        loaded = [_Counted(s.model.name, s.metrics, s.status) for s in self._models.loaded]
        yield from _requests(loaded)
        yield from _tokens(loaded)
        yield from _work(loaded)
        yield from _memory(loaded)
        yield from _times(loaded)


def _pool(models: ModelPool) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "turbopilot_server", "The program and what it serves.", labels=["model"]
    )
    loaded = GaugeMetricFamily(
        "turbopilot_model_loaded", "Whether the model is in memory.", labels=["model"]
    )
    loads = CounterMetricFamily(
        "turbopilot_model_loads", "Times that it was loaded.", labels=["model"]
    )
    names = {s.model.name for s in models.loaded}
    for status in models.statuses:
        info.add_metric([status.name], {"version": __version__})
        loaded.add_metric([status.name], status.name in names)
        loads.add_metric([status.name], status.loads)
    yield from (info, loaded, loads)


def _requests(loaded: Sequence[_Counted]) -> Iterator[Metric]:
    yield _gauge(
        "requests_running", "Requests that are computed now.", loaded, lambda c: c.status.running
    )
    yield _gauge(
        "requests_waiting", "Requests in the queue now.", loaded, lambda c: c.status.waiting
    )
    ended = CounterMetricFamily(
        "turbopilot_requests", "Requests that ended, by how.", labels=["model", "reason"]
    )
    for c in loaded:
        finished = dict.fromkeys(REASONS, 0) | c.metrics.finished.copy()
        for reason, n in finished.items():
            ended.add_metric([c.name, reason], n)
    yield ended
    yield _counter(
        "refused",
        "Calls that were refused because the queue was full.",
        loaded,
        lambda c: c.status.refused,
    )
    yield _counter(
        "engine_restarts",
        "Times that the engine broke and went on.",
        loaded,
        lambda c: c.status.restarts,
    )


def _tokens(loaded: Sequence[_Counted]) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        "turbopilot_tokens",
        "Tokens: of prompts (of these: cached, and of these: restored from the prefix cache), generated (of "
        "these: known from before), computed ahead of a wish, drafted (of these: accepted).",
        labels=["model", "kind"],
    )
    for c in loaded:
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
            tokens.add_metric([c.name, kind], getattr(c.metrics, f"{kind}_tokens"))
    yield tokens


def _work(loaded: Sequence[_Counted]) -> Iterator[Metric]:
    yield _counter("batches", "Batches computed.", loaded, lambda c: c.metrics.steps)
    yield _counter(
        "batch_tokens",
        "Tokens in them; by batches, it is how full they are.",
        loaded,
        lambda c: c.metrics.batch_tokens,
    )
    yield _counter(
        "batch_sequences",
        "Requests in them; by batches, it is how many are computed together.",
        loaded,
        lambda c: c.metrics.batch_sequences,
    )
    yield _counter(
        "decode_seconds",
        "Seconds spent in computing them.",
        loaded,
        lambda c: c.metrics.decode_seconds,
    )
    yield _counter("decode_failures", "Batches that failed.", loaded, lambda c: c.metrics.failures)
    yield _counter(
        "context_rebuilds",
        "Times that the context was made anew.",
        loaded,
        lambda c: c.metrics.rebuilds,
    )


def _memory(loaded: Sequence[_Counted]) -> Iterator[Metric]:
    yield _gauge(
        "kv_cells", "Tokens that the KV cache can hold.", loaded, lambda c: c.metrics.n_cells
    )
    yield _gauge(
        "kv_cells_used", "Tokens that it holds now.", loaded, lambda c: c.metrics.used_cells
    )
    yield _gauge(
        "prefix_cache_bytes",
        "RAM that computed prefixes take.",
        loaded,
        lambda c: c.metrics.stored_bytes,
    )


def _times(loaded: Sequence[_Counted]) -> Iterator[Metric]:
    yield _histogram(
        "queue",
        "Seconds from a request to its first computation.",
        loaded,
        lambda c: c.metrics.queue_seconds,
    )
    yield _histogram(
        "first_token",
        "Seconds from a request to its first token.",
        loaded,
        lambda c: c.metrics.first_token_seconds,
    )
    yield _histogram(
        "token",
        "Seconds from one token to the next.",
        loaded,
        lambda c: c.metrics.token_seconds,
    )


def _gauge(
    name: str, what: str, loaded: Sequence[_Counted], value: Callable[[_Counted], float]
) -> Metric:
    return _filled(GaugeMetricFamily(f"turbopilot_{name}", what, labels=["model"]), loaded, value)


def _counter(
    name: str, what: str, loaded: Sequence[_Counted], value: Callable[[_Counted], float]
) -> Metric:
    return _filled(CounterMetricFamily(f"turbopilot_{name}", what, labels=["model"]), loaded, value)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    loaded: Sequence[_Counted],
    value: Callable[[_Counted], float],
) -> Metric:
    for c in loaded:
        family.add_metric([c.name], value(c))
    return family


def _histogram(
    name: str, what: str, loaded: Sequence[_Counted], value: Callable[[_Counted], Histogram]
) -> Metric:
    family = HistogramMetricFamily(f"turbopilot_{name}_seconds", what, labels=["model"])
    for c in loaded:
        h = value(c)
        buckets = [("+Inf" if math.isinf(bound) else str(bound), n) for bound, n in h.cumulative()]
        family.add_metric([c.name], buckets, h.sum)
    return family
