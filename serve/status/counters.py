"""Measurements from the differences of the engines' counters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Final

from serve.api.status import StatusSample
from serve.metrics import EngineMetrics

_LEAST_SECONDS: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of all loaded models together; see `EngineMetrics`. None of them decreases while a model is loaded.

    Attributes:
        computed: tokens in batches.
        sent: prompt tokens sent to upstreams, whose batches are unknown.
        first_token_seconds, n_first_tokens: sum and number of the times to the first token.
    """

    prompt: int = 0
    cached: int = 0
    computed: int = 0
    sent: int = 0
    generated: int = 0
    known: int = 0
    ahead: int = 0
    drafted: int = 0
    accepted: int = 0
    n_first_tokens: int = 0
    first_token_seconds: float = 0.0

    @classmethod
    def of(cls, metrics: EngineMetrics) -> Counters:
        """Return the counters of one model."""
        m, first = metrics, metrics.first_token_seconds
        is_remote = not m.n_cells
        return cls(
            m.prompt_tokens, m.cached_tokens, m.batch_tokens, m.prompt_tokens if is_remote else 0,
            m.generated_tokens, m.known_tokens, m.ahead_tokens, m.drafted_tokens, m.accepted_tokens,
            sum(first.counts), first.sum,
        )  # fmt: skip

    @classmethod
    def total(cls, metrics: Iterable[EngineMetrics]) -> Counters:
        """Return the counters of all loaded models together."""
        rows = [astuple(cls.of(m)) for m in metrics]
        return cls(*map(sum, zip(*rows, strict=True))) if rows else cls()

    def since(self, before: Counters) -> Counters:
        """Return the differences. A counter that has restarted, as its model was loaded again, counts from 0."""
        pairs = zip(astuple(self), astuple(before), strict=True)
        return Counters(*(now - then if now >= then else now for now, then in pairs))

    @property
    def prefilled(self) -> int:
        """Prompt tokens computed, of the differences of two readings.

        A step that decodes computes a token and its draft, and generates a token and the accepted draft tokens. All
        other computed tokens belong to prompts.
        """
        if self.sent:
            return max(0, self.sent - self.cached)
        decoded = self.generated - self.known + self.ahead
        return max(0, self.computed - decoded - self.drafted + self.accepted)


def measured(new: Counters, seconds: float, sample: StatusSample) -> StatusSample:
    """Return a sample with the speeds and shares that follow from what was counted in some seconds.

    Args:
        new: differences of counters.
        seconds: time between the two readings.
        sample: its other fields.
    """
    seconds = max(seconds, _LEAST_SECONDS)
    found: StatusSample = {
        **sample,
        "prefill_speed": new.prefilled / seconds,
        "decode_speed": new.generated / seconds,
    }
    if new.n_first_tokens:
        found["first_token_ms"] = 1000 * new.first_token_seconds / new.n_first_tokens
    if new.prompt:
        found["cached_share"] = min(1.0, new.cached / new.prompt)
    if new.drafted:
        found["accepted_share"] = min(1.0, new.accepted / new.drafted)
    return found
