"""What the engine counts. Pure: knows nothing of HTTP, threads or Prometheus.

The engine's thread alone writes. Others read single numbers, which Python keeps whole; two numbers read
one after the other may be a step apart.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate

# Upper bounds in seconds: a keystroke's wait, from what nobody notices to what nobody waits for.
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts of observations below bounds, as Prometheus wants them.

    Args:
        bounds: ascending upper bounds; everything above the last is counted, too.
    """

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; a bound belongs to the bucket that it closes."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Observations in all."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """(Upper bound, observations at or below it), the last bound infinite."""
        return list(zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True))


@dataclass(slots=True)
class EngineMetrics:
    """Totals since the start, and how things stand now.

    Attributes:
        finished: requests by how they ended: a FinishReason, or "superseded", "deadline".
        prompt_tokens: of admitted requests.
        cached_tokens: of these, found in the KV cache.
        restored_tokens: of these, brought back from the prefix cache in RAM or on disk.
        known_tokens: generated tokens that had been computed before for the same text, and cost nothing.
        generated_tokens: chosen tokens.
        ahead_tokens: tokens computed while nobody wanted anything, for when a suggestion is taken.
        drafted_tokens: guesses that were computed.
        accepted_tokens: guesses that were right.
        steps: batches computed.
        batch_tokens: tokens in them.
        batch_sequences: sequences in them.
        decode_seconds: time in the decoder.
        failures: batches that failed.
        rebuilds: times that the context was made anew.
        running: requests in slots now.
        waiting: requests in the queue now.
        used_cells: cells of the KV cache that hold tokens now.
        n_cells: cells of the KV cache.
        stored_bytes: of prefixes in RAM now.
        queue_seconds: from submission to a slot.
        first_token_seconds: from submission to the first token.
        token_seconds: from one token to the next.
    """

    finished: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    restored_tokens: int = 0
    known_tokens: int = 0
    generated_tokens: int = 0
    ahead_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    steps: int = 0
    batch_tokens: int = 0
    batch_sequences: int = 0
    decode_seconds: float = 0.0
    failures: int = 0
    rebuilds: int = 0
    running: int = 0
    waiting: int = 0
    used_cells: int = 0
    n_cells: int = 0
    stored_bytes: int = 0
    queue_seconds: Histogram = field(default_factory=Histogram)
    first_token_seconds: Histogram = field(default_factory=Histogram)
    token_seconds: Histogram = field(default_factory=Histogram)

    def finish(self, how: str) -> None:
        """A request ended."""
        self.finished[how] = self.finished.get(how, 0) + 1
