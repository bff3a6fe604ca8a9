"""Metrics of an engine.

Only the engine's thread writes them. Other threads read without a lock, so two values may come from different steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

# Upper bounds of the histogram buckets, in seconds.
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Histogram of durations with the bucket bounds of SECONDS; the last bucket has no upper bound."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value. Upper bounds are inclusive."""
        self.counts[bisect_left(SECONDS, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, int]]:
        """Return (upper bound, number of values at or below it) for each bucket; the last bound is "+Inf"."""
        return list(zip((*map(str, SECONDS), "+Inf"), accumulate(self.counts), strict=True))


@dataclass(frozen=True, slots=True)
class SlotState:
    """Activity of a slot, in numbers of tokens.

    Attributes:
        n_held: tokens in its KV cache.
        request_id: id of the request that runs in it; None if it is free.
        n_cached: tokens of the request's prompt that were in the KV cache.
        n_prefilled: tokens of the prompt that were computed.
        n_decoded: generated tokens.
        n_left: tokens that may still be generated.
        has_line: whether the generated text contains a newline.
    """

    index: int
    n_held: int
    request_id: int | None = None
    n_cached: int = 0
    n_prefilled: int = 0
    n_decoded: int = 0
    n_left: int = 0
    has_line: bool = False


@dataclass(frozen=True, slots=True)
class PrefixState:
    """A prefix in the prefix cache. `age` and `idle` are the seconds since it was stored and since it was last used."""

    n_tokens: int
    n_bytes: int
    age: float
    idle: float
    n_hits: int


@dataclass(slots=True)
class EngineMetrics:
    """Counters since the model was loaded, and gauges of the current state."""

    # number of requests by FinishReason, "superseded" or "deadline"
    finished: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0  # of admitted requests
    cached_tokens: int = 0  # prompt tokens found in the KV cache
    restored_tokens: int = 0  # cached tokens that were restored from the prefix cache
    moved_tokens: int = 0  # cached tokens that were reused at other positions
    generated_tokens: int = 0
    known_tokens: int = 0  # generated tokens that came from the answer cache
    ahead_tokens: int = 0  # computed while idle
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # draft tokens that the model confirmed
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
    store_limit: int = 0  # most RAM of the prefix cache; 0 if it is off
    store_hits: int = 0  # prefixes restored from the prefix cache
    store_dropped: int = 0  # prefixes dropped from it for lack of room
    queue_seconds: Histogram = field(default_factory=Histogram)  # from submission to a slot
    first_token_seconds: Histogram = field(default_factory=Histogram)  # from submission
    token_seconds: Histogram = field(default_factory=Histogram)  # from one token to the next
    slots: Callable[[], tuple[SlotState, ...]] = tuple  # returns the activity of each slot
    prefixes: Callable[[], tuple[PrefixState, ...]] = tuple  # returns what the prefix cache holds

    def finish(self, how: str) -> None:
        """Count a request that ended."""
        self.finished[how] = self.finished.get(how, 0) + 1
