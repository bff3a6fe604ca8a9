"""The last finished requests."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

from serve.api.status import RequestTimes
from serve.status.request_times import FinishedRequest, request_times, usual_seconds

log = logging.getLogger("turbopilot.http")

MOST_REQUESTS: Final = 200


class FinishedRequests:
    """Ring of the last finished requests. Callable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[RequestTimes] = deque(maxlen=MOST_REQUESTS)
        self._totals: deque[float] = deque(maxlen=MOST_REQUESTS)

    def add(self, r: FinishedRequest) -> None:
        """Add a request; never raises, because an engine's thread may call it."""
        try:
            with self._lock:
                self._requests.append(request_times(r, usual_seconds(self._totals)))
                if r.reason in ("stop", "length"):
                    self._totals.append(r.total)
        except Exception:
            log.exception("the times of a request could not be recorded")

    @property
    def latest(self) -> list[RequestTimes]:
        """The requests in the order in which they ended."""
        with self._lock:
            return list(self._requests)
