"""Lock that lets only one model of a process compute at a time.

Each llama.cpp context has threads for all cores. Two contexts that compute at once slow each other down: each waits at
barriers for threads that the other context keeps from running.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class ComputeLock:
    """A first-come-first-served lock.

    `threading.Lock` is not fair: a busy engine would release it and take it again before another engine wakes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def is_taken(self) -> bool:
        """Whether an engine holds the lock; the value may change at any time."""
        return self._is_taken

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the lock and hold it in the `with` block."""
        with self._lock:
            mine = None
            if self._is_taken:
                mine = threading.Lock()
                mine.acquire()
                self._waiting.append(mine)
            self._is_taken = True
        if mine:
            mine.acquire()  # wait until the previous holder releases it
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._is_taken = False
