"""Lock that lets only one model of a process compute at a time.

Each llama.cpp context has threads for all cores. Two contexts that compute at once slow each other down: each waits at
barriers for threads that the other context keeps from running.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ComputeLock:
    """A first-come-first-served lock.

    `threading.Lock` is not fair: a busy engine would release it and take it again before another engine wakes.

    It also measures the present turn: a computation that never returns stops all engines that share the lock.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turn: tuple[float, float] | None = (
            None  # start of the present turn and its limit, in seconds
        )
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def is_taken(self) -> bool:
        """Whether an engine holds the lock; the value may change at any time."""
        return self._is_taken

    @property
    def seconds(self) -> float | None:
        """Seconds that the present turn has taken; None if no engine holds the lock."""
        return None if (turn := self._turn) is None else self._clock() - turn[0]

    @property
    def overdue(self) -> float | None:
        """Seconds that the present turn has taken, if they exceed its limit; else None."""
        turn, seconds = self._turn, self.seconds
        return seconds if turn and seconds is not None and seconds > turn[1] else None

    @contextmanager
    def turn(self, limit: float = math.inf) -> Iterator[None]:
        """Wait for the lock and hold it in the `with` block, which should take at most `limit` seconds."""
        with self._lock:
            mine = None
            if self._is_taken:
                mine = threading.Lock()
                mine.acquire()
                self._waiting.append(mine)
            self._is_taken = True
        if mine:
            mine.acquire()  # wait until the previous holder releases it
        self._turn = (self._clock(), limit)
        try:
            yield
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        self._turn = None
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
