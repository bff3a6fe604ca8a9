"""State of the server: the answers of the routes under `/status`."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from serve.api.dialect import SSE
from serve.api.status import ServedModelStatus, StatusAnswer, StatusSample
from serve.models import ModelPool
from serve.models.status import EVENT_MODEL
from serve.status.client_reports import ClientReports
from serve.status.counters import Counters, measured
from serve.status.event_log import watch_events
from serve.status.feed import StatusFeed, Viewer
from serve.status.finished_requests import FinishedRequests
from serve.status.snapshot import machine_status, model_statuses
from turbopilot.base.graphics import Host
from turbopilot.base.load import CpuTimes, GpuLoad, cpu_load, cpu_times, gpu_loads
from turbopilot.base.version import __version__

log = logging.getLogger("turbopilot.models")

MOST_SAMPLES: Final = 300  # five minutes
MOST_STREAMED: Final = 50  # requests and events in each event of the stream
HOST: Final = Host()


class ServerStatus:
    """State of a server. Callable from any thread.

    Args:
        models: the models.
        needs_key: whether the server requires an API key.
        clock: returns Unix time in seconds.

    Attributes:
        requests: the last finished requests.
        reports: what clients report about completions.
    """

    def __init__(
        self, models: ModelPool, *, needs_key: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._models, self._needs_key, self._clock = models, needs_key, clock
        self._started = clock()
        self.requests, self.reports = FinishedRequests(), ClientReports()
        self._events = watch_events()
        self._lock = threading.Lock()  # protects the attributes below
        self._samples: deque[StatusSample] = deque(maxlen=MOST_SAMPLES)
        self._counters, self._measured = Counters(), time.monotonic()
        self._stalled: frozenset[str] = frozenset()
        self._cpu: CpuTimes | None = None
        self._gpus: Sequence[GpuLoad] = ()
        self._feed = StatusFeed(self._measure, self._first, models.pause)

    def answer(self) -> StatusAnswer:
        """Return the state, with all samples, requests and events that are kept."""
        self._feed.look()
        with self._lock:
            samples = list(self._samples)
        return self._answer(samples)

    def watch(self) -> Viewer:
        """Return a viewer of the stream; see `StatusFeed.open`."""
        return self._feed.open()

    def _answer(self, samples: list[StatusSample], most: int | None = None) -> StatusAnswer:
        """Return the state with these samples, and with at most this many requests and events."""
        models = model_statuses(self._models)
        self._note_stalls(models)
        only = models[0]["name"] if len(models) == 1 else ""  # all events are this model's
        latest = slice(None if most is None else -most, None)
        return {
            "version": __version__,
            "started": self._started,
            "time": self._clock(),
            "needs_key": self._needs_key,
            "default_model": models[0]["name"],
            "models": models,
            "machine": machine_status(self._models, self._gpus),
            "samples": samples,
            "requests": self.requests.latest[latest],
            "events": [{**e, "model": e["model"] or only} for e in self._events.events[latest]],
            "accepted": self.reports.shares,
        }

    def _note_stalls(self, models: Sequence[ServedModelStatus]) -> None:
        """Log models that no longer compute, and those that compute again. Only a look shows that a call hangs."""
        stalled = {m["name"]: m.get("reason", "") for m in models if m["status"] == "stalled"}
        with self._lock:
            before, self._stalled = self._stalled, frozenset(stalled)
        for name in stalled.keys() - before:
            log.error("%s is stalled: %s", name, stalled[name], extra={EVENT_MODEL: name})
        for name in before - stalled.keys():
            log.info("%s computes again", name, extra={EVENT_MODEL: name})

    def _first(self) -> bytes:
        return SSE.piece(self._answer([], MOST_STREAMED))

    def _measure(self, is_first: bool) -> bytes:
        """Take a sample and return the event of the stream; the first time only take readings."""
        counters = Counters.total(s.metrics for s in self._models.loaded)
        now, cpu = time.monotonic(), cpu_times(HOST)
        gpus = gpu_loads(HOST)  # may take seconds
        with self._lock:
            new, seconds = counters.since(self._counters), now - self._measured
            load = cpu_load(self._cpu, cpu)
            self._counters, self._measured, self._cpu, self._gpus = counters, now, cpu, gpus
        if is_first:
            return b""
        statuses = self._models.statuses
        sample: StatusSample = {
            "time": self._clock(),
            "running": sum(s.running for s in statuses),
            "waiting": sum(s.waiting for s in statuses),
            "prefill_speed": 0.0,
            "decode_speed": 0.0,
        }
        if load is not None:
            sample["cpu"] = load
        if loads := [g.load for g in gpus if g.load is not None]:
            sample["gpu"] = max(loads)
        sample = measured(new, seconds, sample)
        with self._lock:
            self._samples.append(sample)
        return SSE.piece(self._answer([sample], MOST_STREAMED))
