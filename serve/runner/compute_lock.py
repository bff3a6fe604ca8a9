"""One computing step at a time over all models of a process.

Each llama.cpp context has threads for all cores. Two that compute at once slow each other down: each waits at its
barriers for threads that the other one keeps from running.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class ComputeLock:
    """A first-come-first-served lock.

    `threading.Lock` is not: a busy engine would release it and take it again before another one wakes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def is_taken(self) -> bool:
        """Whether an engine holds the lock; may be outdated at once."""
        return self._is_taken

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the lock, and hold it."""
        with self._lock:
            mine = None
            if self._is_taken:
                mine = threading.Lock()
                mine.acquire()
                self._waiting.append(mine)
            self._is_taken = True
        if mine:
            mine.acquire()  # until the one before hands the lock on
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._is_taken = False
