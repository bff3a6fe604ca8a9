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
from typing import Final
from weakref import WeakKeyDictionary

# Seconds after a turn in which its engine may begin the next one. Sampling and sending tokens take far less.
BETWEEN: Final = 0.05


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
        # When the last urgent turn of each owner ended; weak, since models are unloaded.
        self._urgent: WeakKeyDictionary[object, float] = WeakKeyDictionary()
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

    def is_needed_by_others(self, owner: object) -> bool:
        """Return whether another owner has, or had less than BETWEEN seconds ago, an urgent turn."""
        since = self._clock() - BETWEEN
        with self._lock:
            return any(end > since for other, end in self._urgent.items() if other is not owner)

    @contextmanager
    def turn(self, limit: float = math.inf, urgent: object = None) -> Iterator[None]:
        """Wait for the lock and hold it in the `with` block.

        Args:
            limit: seconds that the block should take at most.
            urgent: owner of the turn if it is urgent, so that turns which can wait do so; else None.
        """
        with self._lock:
            if urgent is not None:
                self._urgent[urgent] = math.inf
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
            self._end_turn(urgent)

    def _end_turn(self, urgent: object) -> None:
        self._turn = None
        with self._lock:
            if urgent is not None:
                self._urgent[urgent] = self._clock()
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
