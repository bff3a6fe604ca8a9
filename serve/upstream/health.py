"""Outlier ejection: when an upstream gets no requests for a while, and when it is tried again.

An upstream is ejected after `CONSECUTIVE_FAILURES` failures in a row. A slow answer counts as one: its first token took
`SLOW_FACTOR` times the median of the other upstreams. After its time is over, one request is the probe (the half-open
state of a circuit breaker): if that fails, the next ejection is twice as long.

Source: Envoy's outlier detection (docs/root/intro/arch_overview/upstream/outlier.rst) has the same count of 5xx answers
and connection failures, an ejection time that grows with each ejection, and a limit for it. Envoy's times, 30 s to
300 s, suit large pools of servers; ours are short, since a failed probe costs a client nothing: the request is tried
again elsewhere. Envoy has no rule for slow answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

CONSECUTIVE_FAILURES: Final = 5  # Envoy's consecutive_5xx
EJECTION_SECONDS: Final = 1.0  # of the first ejection; doubles with each further one
MAX_EJECTION_SECONDS: Final = 30.0
FORGIVEN_AFTER: Final = (
    10  # good answers in a row, after which earlier ejections do not count any more
)
SLOW_FACTOR: Final = 10.0
SLOW_SECONDS: Final = (
    5.0  # a first token that comes sooner is never slow: it may have an empty cache
)


class Outcome(Enum):
    """How a request to an upstream ended."""

    OK = "ok"
    FAILED = "failed"  # no connection, a broken one, a 5xx status, an answer that cannot be read
    TIMED_OUT = "timed out"  # no first token within the time limit
    BUSY = "busy"  # 429, or 503 with a full queue: alive, but another upstream may have room
    REJECTED = "rejected"  # another 4xx: every upstream would reject this request
    CANCELLED = "cancelled"  # by the client


@dataclass(slots=True)
class Health:
    """Health of one upstream, by its answers.

    Attributes:
        failures: in a row, slow answers included.
        good: good answers in a row.
        ejections: in a row; each doubles the time of the next.
        ejected_until: time at which the next request may be the probe; None if the upstream is not ejected.
        probing: the probe is running.
        slow: the last failure was a slow answer.
    """

    failures: int = 0
    good: int = 0
    ejections: int = 0
    ejected_until: float | None = None
    probing: bool = False
    slow: bool = False

    def may_probe(self, now: float) -> bool:
        """Return whether an ejected upstream may get one request."""
        return self.ejected_until is not None and now >= self.ejected_until and not self.probing

    def succeed(self) -> None:
        """Count a good answer; it ends an ejection."""
        self.failures = 0
        self.ejected_until = None
        self.good += 1
        if self.good >= FORGIVEN_AFTER:
            self.ejections = 0

    def fail(self, now: float, *, slow: bool) -> None:
        """Count a failure; the last one in a row, or that of a probe, ejects the upstream."""
        self.good = 0
        self.failures += 1
        self.slow = slow
        if self.probing or self.failures >= CONSECUTIVE_FAILURES:
            seconds = min(EJECTION_SECONDS * 2.0**self.ejections, MAX_EJECTION_SECONDS)
            self.ejected_until = now + seconds
            self.ejections = min(self.ejections + 1, 30)
