"""An estimate of when the queue has room, from how fast requests ended lately."""

from __future__ import annotations

import math
from collections import deque

# Latest requests that count, and the seconds to answer before any has ended.
WINDOW = 32
UNKNOWN = 2
# Most seconds to wait before the next try: by then, an editor's request is stale anyway.
LONGEST = 60


class Throughput:
    """Times at which requests ended."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=WINDOW)

    def note(self, n: int, now: float) -> None:
        """Note that `n` requests ended."""
        self._ends.extend([now] * min(n, WINDOW))

    def seconds_until(self, n: int, now: float) -> int:
        """Estimate in how many whole seconds `n` more will have ended: 1 to LONGEST."""
        if not self._ends:
            return UNKNOWN
        # Including the time since the last end, so that a server that hangs does not look fast.
        each = (now - self._ends[0]) / len(self._ends)
        return max(1, min(LONGEST, math.ceil(n * each)))  # at least 1 even if the clock jumped back
