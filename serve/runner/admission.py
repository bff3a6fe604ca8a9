"""Admission of requests to a runner: how many are open, and when they are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

from serve.runner.throughput import Throughput
from turbopilot.base.errors import Overloaded, TurboPilotError


class Admission:
    """Number of open requests of a runner, which inherits from this class. Callable from any thread.

    Args:
        clock: returns seconds.

    Attributes:
        n_open: queued and running requests.
        n_refused: generations refused because the queue was full.
        is_cut: whether a shutdown cancelled the open requests.
        failure: the error that ended the runner, if any.
        why_stopped: why new requests are refused and open ones cancelled, once they are.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._throughput = Throughput()
        # Protects the attributes. Reentrant: a signal handler may stop the runner while its thread holds the lock.
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._refuse: TurboPilotError | None = None
        # Written under the lock; each may be read without it.
        self.n_open = self.n_refused = 0
        self.is_cut = False
        self.failure: TurboPilotError | None = None
        self.why_stopped = "the server is shutting down"

    @property
    def is_draining(self) -> bool:
        """Whether new generations are refused because the server is shutting down."""
        return self._refuse is not None and self.failure is None

    def _admit(self, n: int, most: int) -> None:
        """Count `n` new requests; the caller holds the lock.

        Args:
            n: requests of a generation.
            most: maximum number of open requests, unless a single generation has more.

        Raises:
            Overloaded: the queue is full, or the server is shutting down.
            TurboPilotError: the runner has failed.
        """
        if self._refuse:
            raise self._refuse
        excess = self.n_open + n - most
        if self.n_open and excess > 0:
            self.n_refused += 1
            raise Overloaded(
                f"the queue is full: {self.n_open} waiting or running",
                retry_after=self._throughput.seconds_until(excess, self._clock()),
                hint="try again",
            )
        self.n_open += n

    def _count_ended(self, n: int) -> None:
        """Record that `n` requests have ended."""
        with self._lock:
            self._throughput.note(n, self._clock())
            self.n_open -= n
            if not self.n_open:
                self._idle.notify_all()

    def drain(self) -> None:
        """Refuse new generations from now on."""
        with self._lock:
            self._refuse = self._refuse or Overloaded(self.why_stopped)

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no request is queued or running; return False after `timeout` seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: not self.n_open, timeout)
