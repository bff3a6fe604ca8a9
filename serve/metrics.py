"""What the engine counts.

Only the engine's thread writes. Others read single numbers; two numbers read one after the other may be a step apart.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate

# Upper bounds in seconds.
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts of observations below ascending upper bounds; everything above the last is counted, too."""

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; a bound belongs to the bucket below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Return (upper bound, observations at or below it) pairs, the last bound infinite."""
        return list(zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True))


@dataclass(slots=True)
class EngineMetrics:
    """Totals since the start, and gauges."""

    finished: dict[str, int] = field(default_factory=dict)  # FinishReason, "superseded", "deadline"
    prompt_tokens: int = 0  # of admitted requests
    cached_tokens: int = 0  # of these, found in the KV cache
    restored_tokens: int = 0  # of these, brought back from the prefix cache
    generated_tokens: int = 0
    known_tokens: int = 0  # of these, computed before for the same text
    ahead_tokens: int = 0  # computed while idle, for when a completion is accepted
    drafted_tokens: int = 0  # draft tokens that were computed
    accepted_tokens: int = 0  # of these, right
    steps: int = 0  # batches
    batch_tokens: int = 0
    batch_sequences: int = 0
    decode_seconds: float = 0.0
    failures: int = 0  # batches that failed
    rebuilds: int = 0  # of the context
    running: int = 0  # requests in slots now
    waiting: int = 0  # requests in the queue now
    used_cells: int = 0  # of the KV cache, that hold tokens now
    n_cells: int = 0  # of the KV cache
    stored_bytes: int = 0  # of prefixes in RAM now
    queue_seconds: Histogram = field(default_factory=Histogram)  # from submission to a slot
    first_token_seconds: Histogram = field(default_factory=Histogram)  # from submission
    token_seconds: Histogram = field(default_factory=Histogram)  # from one token to the next

    def finish(self, how: str) -> None:
        """Count a request that ended."""
        self.finished[how] = self.finished.get(how, 0) + 1
