"""`/metrics`: metrics of the models in Prometheus' text format. Each metric is a row of a table.

The engines count; their values are read at each request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from serve.api.client_report import REPORTS
from serve.metrics import Histogram
from serve.models import ModelPool
from serve.models.service import CompletionService
from serve.status.client_reports import ClientReports
from serve.upstream.health import Outcome
from serve.upstream.member import UpstreamStatus
from turbopilot.base.version import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"  # every Prometheus supports it
# Reasons for the end of a request. All are exported from the start, so that a rate includes the first occurrence.
REASONS: Final = ("stop", "length", "cancelled", "error", "superseded", "deadline")
TOKENS: Final = (
    "prompt", "cached", "restored", "moved", "generated", "known", "ahead", "drafted", "accepted",
)  # fmt: skip
INFO, GAUGE, COUNTER = InfoMetricFamily, GaugeMetricFamily, CounterMetricFamily
HISTOGRAM = HistogramMetricFamily


class MetricRow(NamedTuple):
    """A metric.

    Attributes:
        kind: type of the metric.
        name: name without the prefix "turbopilot_".
        help: help text.
        get: returns the value for a model; with a `label`, a dict of numbers by label value.
        label: name of a label in addition to the model's name, or "".
    """

    kind: Any
    name: str
    help: str
    get: Callable[[Any], Any]
    label: str = ""


def _ended(service: CompletionService) -> dict[str, int]:
    return dict.fromkeys(REASONS, 0) | service.metrics.finished.copy()


def _tokens(service: CompletionService) -> dict[str, int]:
    return {kind: getattr(service.metrics, f"{kind}_tokens") for kind in TOKENS}


def _upstreams(
    get: Callable[[UpstreamStatus], float],
) -> Callable[[CompletionService], dict[str, float]]:
    """Return a getter of a number for each upstream, by its URL."""
    return lambda service: {u.name: get(u) for u in service.status.upstreams}


def _n_failed(u: UpstreamStatus) -> int:
    return u.outcomes[Outcome.FAILED.value] + u.outcomes[Outcome.TIMED_OUT.value]


# fmt: off
# Metrics of every model. `get` takes (status, whether it is loaded).
SERVED: Final = (
    MetricRow(INFO, "server", "Version of the server, for each model.", lambda _: {"version": __version__}),
    MetricRow(GAUGE, "model_loaded", "Whether the model is in memory.", lambda m: m[1]),
    MetricRow(COUNTER, "model_loads", "Number of times the model was loaded.", lambda m: m[0].loads),
)
# Metrics of loaded models. `get` takes the service. Counters restart at 0 if the model is loaded again.
LOADED: Final = (
    MetricRow(GAUGE, "requests_running", "Requests in slots.", lambda m: m.status.running),
    MetricRow(GAUGE, "requests_waiting", "Requests in the queue.", lambda m: m.status.waiting),
    MetricRow(COUNTER, "requests", "Finished requests, by reason.", _ended, "reason"),
    MetricRow(COUNTER, "refused", "API calls refused because the queue was full.", lambda m: m.status.refused),
    MetricRow(COUNTER, "engine_restarts", "Restarts of the engine after a failure.", lambda m: m.status.restarts),
    MetricRow(COUNTER, "tokens", "Tokens by kind: prompt, cached (prompt tokens in the KV cache), restored (cached "
        "tokens from the prefix cache), moved (cached tokens reused at other positions), generated, known (generated "
        "tokens from the answer cache), ahead (computed while idle), drafted, accepted (draft tokens that the model "
        "confirmed).",
        _tokens, "kind"),
    MetricRow(COUNTER, "batches", "Batches computed.", lambda m: m.metrics.steps),
    MetricRow(COUNTER, "batch_tokens", "Tokens in batches.", lambda m: m.metrics.batch_tokens),
    MetricRow(COUNTER, "batch_sequences", "Sequences in batches.", lambda m: m.metrics.batch_sequences),
    MetricRow(COUNTER, "decode_seconds", "Seconds spent on computing batches.", lambda m: m.metrics.decode_seconds),
    MetricRow(COUNTER, "decode_failures", "Batches that failed.", lambda m: m.metrics.failures),
    MetricRow(COUNTER, "context_rebuilds", "Rebuilds of the llama.cpp context.", lambda m: m.metrics.rebuilds),
    MetricRow(GAUGE, "kv_cells", "Tokens that the KV cache can hold.", lambda m: m.metrics.n_cells),
    MetricRow(GAUGE, "kv_cells_used", "Tokens in the KV cache.", lambda m: m.metrics.used_cells),
    MetricRow(GAUGE, "prefix_cache_bytes", "RAM used by the prefix cache, in bytes.", lambda m: m.metrics.stored_bytes),
    MetricRow(COUNTER, "prefix_cache_hits", "Prefixes restored from the prefix cache.", lambda m: m.metrics.store_hits),
    MetricRow(COUNTER, "prefix_cache_dropped", "Prefixes dropped from the prefix cache for lack of room.",
        lambda m: m.metrics.store_dropped),
    MetricRow(HISTOGRAM, "queue_seconds", "Seconds from the submission of a request to a slot.",
        lambda m: m.metrics.queue_seconds),
    MetricRow(HISTOGRAM, "first_token_seconds", "Seconds from the submission of a request to its first token.",
        lambda m: m.metrics.first_token_seconds),
    MetricRow(HISTOGRAM, "token_seconds", "Seconds from one token to the next.", lambda m: m.metrics.token_seconds),
    MetricRow(GAUGE, "upstream_healthy", "Whether an upstream gets requests.",
        _upstreams(lambda u: u.state == "healthy"), "upstream"),
    MetricRow(GAUGE, "upstream_in_flight", "Requests at an upstream.", _upstreams(lambda u: u.in_flight), "upstream"),
    MetricRow(COUNTER, "upstream_requests", "Requests that ended at an upstream.",
        _upstreams(lambda u: sum(u.outcomes.values())), "upstream"),
    MetricRow(COUNTER, "upstream_failures", "Requests that failed at an upstream, or got no token in time.",
        _upstreams(_n_failed), "upstream"),
    MetricRow(COUNTER, "upstream_retries", "Tries of requests at another upstream, after the first one.",
        lambda m: m.upstreams.n_retries if m.upstreams else 0),
)
# fmt: on


class _Metrics(Collector):
    """Collector of all metrics, for the models of a server."""

    def __init__(self, models: ModelPool, reports: ClientReports) -> None:
        self._models, self._reports = models, reports

    def collect(self) -> Iterator[Metric]:
        yield _reported(self._reports)
        loaded = {s.model.name: s for s in self._models.loaded}
        served = {s.name: (s, s.name in loaded) for s in self._models.statuses}
        yield from (_family(row, served) for row in SERVED)
        yield from (_family(row, loaded) for row in LOADED)


def _family(row: MetricRow, models: Mapping[str, Any]) -> Any:
    labels = ["model", row.label] if row.label else ["model"]
    family = row.kind(f"turbopilot_{row.name}", row.help, labels=labels)
    for name, model in models.items():
        value = row.get(model)
        if row.label:
            for label, number in value.items():
                family.add_metric([name, label], number)
        elif isinstance(value, Histogram):
            family.add_metric([name], value.cumulative(), value.sum)
        else:
            family.add_metric([name], value)
    return family


def _reported(reports: ClientReports) -> Metric:
    about = "Completions that clients reported as shown, accepted or dismissed, by the name in User-Agent."
    family = CounterMetricFamily(
        "turbopilot_completions_reported", about, labels=["client", "report"]
    )
    for share in reports.shares:
        for kind in REPORTS:
            family.add_metric([share["client"], kind], share[kind])
    return family


def registry(models: ModelPool, reports: ClientReports) -> CollectorRegistry:
    """Return a registry with all metrics of the models, the clients and the process (memory, processor time, files)."""
    registry = CollectorRegistry()
    registry.register(_Metrics(models, reports))
    ProcessCollector(registry=registry)
    return registry


def text(registry: CollectorRegistry) -> bytes:
    """Return the current values in Prometheus' text format."""
    return generate_latest(registry)
