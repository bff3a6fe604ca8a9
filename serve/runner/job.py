"""Requests that were submitted together, and the way of their events to whoever waits. Knows nothing of engines.

The engine's thread delivers and never waits; one other thread takes. What waits to be taken is bounded by
`max_tokens`, so nobody has to be held up by a slow reader.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Sequence

from serve.request import Event, Finished

Delivered = tuple[int, Event]


class Job:
    """One or more requests, and their events as they come.

    Args:
        n_requests: how many; events name them 0 … n-1.
        whole: hand nothing out before all have finished (or one failed): the taker is woken once, not for
            every token.
        on_cancel: told once, from any thread, that nobody waits for the events any more.
    """

    def __init__(self, n_requests: int, *, whole: bool, on_cancel: Callable[[Job], None]) -> None:
        self.n_requests = n_requests
        self._on_cancel = on_cancel
        self._is_cancelled = False
        # From the engine's thread to the taker; None only wakes.
        self._handed: queue.SimpleQueue[Sequence[Delivered] | None] = queue.SimpleQueue()
        # The engine's thread alone:
        self._whole = whole
        self._collected: list[Delivered] = []
        self._n_running = n_requests
        # The taker alone:
        self._ready: deque[Delivered] = deque()
        self._untaken = set(range(n_requests))

    @property
    def is_finished(self) -> bool:
        """Whether the terminal event of every request has been taken."""
        return not self._untaken

    def next_event(self, timeout: float | None = None) -> Delivered | None:
        """The next (index of the request, event); waits for it.

        Returns:
            None where none came within the timeout (seconds), or where the job was abandoned meanwhile.
        """
        if not self._ready:
            try:
                handed = self._handed.get(timeout=timeout)
            except queue.Empty:
                return None
            if handed is None:
                return None
            self._ready.extend(handed)
        index, event = self._ready.popleft()
        if isinstance(event, Finished):
            self._untaken.discard(index)
        return index, event

    def cancel(self) -> None:
        """End what has not ended; the terminal events still come. Harmless when repeated, or after the end."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._on_cancel(self)

    def abandon(self) -> None:
        """Nobody reads any more: cancel, and wake whoever waits for an event."""
        self.cancel()
        self._handed.put(None)

    def deliver(self, index: int, event: Event) -> None:
        """From the engine's thread. Never waits."""
        if not self._whole:
            self._handed.put([(index, event)])
            return
        self._collected.append((index, event))
        if isinstance(event, Finished):
            self._n_running -= 1
            if not self._n_running or event.error:
                self._handed.put(self._collected)
                self._collected = []
