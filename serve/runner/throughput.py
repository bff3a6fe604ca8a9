"""How soon there will be room, from how fast requests ended lately. The caller has the clock."""

from __future__ import annotations

import math
from collections import deque

# Requests that count as "lately", and the answer before any has ended, in seconds.
WINDOW = 32
UNKNOWN = 2
# Nobody should wait longer before asking again, in seconds: by then, an editor's request is stale anyway.
LONGEST = 60


class Throughput:
    """Times at which requests ended."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=WINDOW)

    def note(self, n: int, now: float) -> None:
        """Note that so many requests ended."""
        self._ends.extend([now] * min(n, WINDOW))

    def seconds_until(self, n: int, now: float) -> int:
        """Estimate when `n` more will have ended: whole seconds, 1 to LONGEST."""
        if not self._ends:
            return UNKNOWN
        # Including the time since the last end, so that a server that hangs does not look fast.
        each = (now - self._ends[0]) / len(self._ends)
        return max(1, min(LONGEST, math.ceil(n * each)))  # a clock that jumped back tells the least
