"""What an engine counts.

Its thread alone writes. Others read single numbers, which Python keeps whole; two numbers read one after the other can
be a step apart.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate

# Upper bounds in seconds: a keystroke's wait, from what nobody notices to what nobody waits for.
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts of observed seconds by the bounds of SECONDS; the last count is of what is above them."""

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
    """Totals since the model was loaded, and the present state.

    Attributes:
        finished: requests by how they ended: a FinishReason, or "superseded", "deadline".
        prompt_tokens: of admitted requests.
        cached_tokens: of these, found in the KV cache.
        restored_tokens: of these, restored from the prefix cache in RAM or on disk.
        known_tokens: generated tokens that were computed before for the same text, and cost nothing.
        ahead_tokens: tokens computed while idle.
        steps: batches computed.
        decode_seconds: time in the decoder.
        failures: batches that failed.
        rebuilds: times that the context was made anew.
        running: requests in slots.
        used_cells: cells of the KV cache that hold tokens.
        stored_bytes: RAM of the prefix cache.
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
        """Count a request that ended."""
        self.finished[how] = self.finished.get(how, 0) + 1
