"""The ends of requests that run together, which may come after the client has left."""

from __future__ import annotations

import threading
from collections.abc import Callable

from serve.request import Finished, Usage


class RequestEnds:
    """Last events of some requests. The engine's thread adds them; any thread may read them.

    Args:
        n: number of requests.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._lock = threading.Lock()
        self._lasts: dict[int, Finished] = {}
        self._then: Callable[[], None] = lambda: None

    def add(self, index: int, last: Finished) -> None:
        """Add the last event of a request; each has one."""
        with self._lock:
            self._lasts[index] = last
            then = self._then if len(self._lasts) == self._n else None
        if then:
            then()

    def when_all(self, callback: Callable[[], None]) -> None:
        """Call `callback` once all requests have ended: now, or in the engine's thread, for which it must be fast."""
        with self._lock:
            if len(self._lasts) < self._n:
                self._then = callback
                return
        callback()

    @property
    def lasts(self) -> tuple[Finished, ...]:
        """The events so far."""
        with self._lock:
            return tuple(self._lasts.values())

    @property
    def usages(self) -> dict[int, Usage]:
        """Token counts and times of the requests that have ended, by index."""
        with self._lock:
            return {i: last.usage for i, last in self._lasts.items()}
