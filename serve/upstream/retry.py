"""Tries of one request: at which upstreams, and when it is tried again.

A request may be tried again if nothing of it has reached the client: after the first byte, a second answer would
repeat or contradict what the client has.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from serve.upstream.health import Outcome
from serve.upstream.routing import RouteKey, Router

MOST_TRIES: Final = 3  # outlasts two faulty upstreams
_ELSEWHERE: Final = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.BUSY)
LONGEST_WAIT: Final = 10.0  # seconds; a shorter time limit would abandon long prompts


def may_retry(outcome: Outcome, *, streamed: bool) -> bool:
    """Return whether another upstream may answer a request that ended like this.

    Args:
        outcome: how the try ended.
        streamed: whether the client has got a byte of the answer.
    """
    return not streamed and outcome in _ELSEWHERE


@dataclass(frozen=True, slots=True)
class Try:
    """One try: its upstream, the seconds until its first token must come (None: no limit), whether it is a probe."""

    name: str
    limit: float | None
    probe: bool


class Tries:
    """The tries of one request: each at another upstream; those that were only slow once more, without a limit.

    Call `next`, and `ended` when that try is over, while it returns True.

    Args:
        router: chooses the upstreams.
        key: what ties the request to an upstream.
        most: maximum number of tries.
        excluded: upstreams that cannot answer the request.
        is_low: whether it has low priority: it may wait for other requests at an upstream, which is not slow for that.
    """

    def __init__(
        self,
        router: Router,
        key: RouteKey,
        most: int = MOST_TRIES,
        excluded: Collection[str] = (),
        *,
        is_low: bool = False,
    ) -> None:
        self._router = router
        self._key, self._is_low = key, is_low
        self._left = most
        self._tried: set[str] = set(excluded)
        self._slow: set[str] = set()  # timed out, and may answer in the end
        self._running: Try | None = None

    def next(self, now: float) -> Try | None:
        """Begin a try; None if no upstream is left for it."""
        name, limit = None, None
        if self._left > 0:
            name = self._router.pick(self._key, now, self._tried)
        if name is not None:
            limit = self._limit(name)
        elif self._slow:
            name = self._router.pick(self._key, now, self._tried - self._slow)
            self._slow.clear()
        if name is None:
            return None
        self._left -= 1
        self._tried.add(name)
        self._running = Try(name, limit, self._router.begin(name, now))
        return self._running

    def ended(self, outcome: Outcome, now: float, waited: float, *, streamed: bool) -> bool:
        """End the running try; return whether the request may be tried again.

        Args:
            outcome: how it ended.
            now: seconds on the caller's clock.
            waited: seconds to its first token; to its end if it had none.
            streamed: whether the client has got a byte of the answer.
        """
        assert self._running, "call next first"
        ended, self._running = self._running, None
        measured = None if self._is_low else waited
        self._router.end(ended.name, outcome, now, measured, probe=ended.probe)
        if outcome is Outcome.TIMED_OUT and ended.limit is not None:
            self._slow.add(ended.name)
        return may_retry(outcome, streamed=streamed)

    def _limit(self, name: str) -> float | None:
        patience = None if self._is_low else self._router.patience(name)
        return None if patience is None else max(patience, LONGEST_WAIT)
