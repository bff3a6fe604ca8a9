"""Metrics of an engine. Only its thread writes; two numbers read one after the other can be a step apart."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate

# Upper bounds in seconds: from an unnoticeable wait to an unacceptable one.
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts of observed seconds by the bounds of SECONDS; the last count is above all of them."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; a bound belongs to the bucket that it closes."""
        self.counts[bisect_left(SECONDS, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, int]]:
        """Return (upper bound, observations at or below it), the last bound infinite."""
        return list(zip((*map(str, SECONDS), "+Inf"), accumulate(self.counts), strict=True))


@dataclass(slots=True)
class EngineMetrics:
    """Totals since the model was loaded, and the present state."""

    # by FinishReason, "superseded", "deadline"
    finished: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0  # of admitted requests
    cached_tokens: int = 0  # of these, found in the KV cache
    restored_tokens: int = 0  # of these, restored from the prefix cache
    generated_tokens: int = 0
    known_tokens: int = 0  # of these, from the answer cache
    ahead_tokens: int = 0  # computed while idle
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # of these
    steps: int = 0  # batches computed
    batch_tokens: int = 0
    batch_sequences: int = 0
    decode_seconds: float = 0.0
    failures: int = 0  # batches that failed
    rebuilds: int = 0  # times that the KV cache was rebuilt
    running: int = 0  # requests in slots
    waiting: int = 0  # requests in the queue
    used_cells: int = 0  # cells of the KV cache that hold tokens
    n_cells: int = 0
    stored_bytes: int = 0  # RAM of the prefix cache
    queue_seconds: Histogram = field(default_factory=Histogram)  # from submission to a slot
    first_token_seconds: Histogram = field(default_factory=Histogram)  # from submission
    token_seconds: Histogram = field(default_factory=Histogram)  # from one token to the next

    def finish(self, how: str) -> None:
        """Count a request that ended."""
        self.finished[how] = self.finished.get(how, 0) + 1
