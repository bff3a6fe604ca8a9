"""Estimate of when the queue has room again, from the rate at which requests ended recently."""

from __future__ import annotations

import math
from collections import deque

WINDOW = 32  # number of latest requests used for the estimate
UNKNOWN = 2  # estimate in seconds before any request has ended
LONGEST = 60  # longest estimate in seconds: by then, an editor's request is stale anyway


class Throughput:
    """Times at which the latest requests ended."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=WINDOW)

    def note(self, n: int, now: float) -> None:
        """Record that `n` requests ended."""
        self._ends.extend([now] * min(n, WINDOW))

    def seconds_until(self, n: int, now: float) -> int:
        """Return the estimated whole seconds until `n` more requests have ended: 1 to LONGEST."""
        if not self._ends:
            return UNKNOWN
        # The time since the last end is included, so that a server that hangs does not look fast.
        each = (now - self._ends[0]) / len(self._ends)
        return max(1, min(LONGEST, math.ceil(n * each)))  # at least 1 even if the clock jumped back
