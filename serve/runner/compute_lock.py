"""One computing step at a time over all models of a process. Knows nothing of what is computed.

Two llama.cpp contexts that compute at once each have a team of threads for all cores, and the teams slow each
other down: a team waits at its barriers for threads that the other one keeps from running.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from serve.metrics import EngineMetrics
from serve.request import Event, GenerationRequest
from serve.runner.steps import Steps
from turbopilot.base.errors import TurboPilotError


class Turns:
    """A lock that is given in the order in which it was asked for.

    `threading.Lock` is not: a busy engine would give it back and have it again before another one woke.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def is_taken(self) -> bool:
        """Whether somebody has the turn; by the time that this is read, it may be otherwise."""
        return self._is_taken

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn, and have it."""
        with self._lock:
            mine = None
            if self._is_taken:
                mine = threading.Lock()
                mine.acquire()
                self._waiting.append(mine)
            self._is_taken = True
        if mine:
            mine.acquire()  # until the one before hands the turn on
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._is_taken = False


class InTurn:
    """An engine that computes in its turn. See `Steps`.

    A long prompt of one model is read in steps, as always, and the other models have a step between.

    Args:
        engine: computes.
        turns: shared with the other models' engines.
    """

    def __init__(self, engine: Steps, turns: Turns) -> None:
        self._engine, self._turns = engine, turns

    def warm_up(self) -> None:
        """In its turn."""
        with self._turns.turn():
            self._engine.warm_up()

    @property
    def has_work(self) -> bool:
        """The engine's."""
        return self._engine.has_work

    @property
    def metrics(self) -> EngineMetrics:
        """The engine's."""
        return self._engine.metrics

    @property
    def can_look_ahead(self) -> bool:
        """Not while somebody else's model computes what was asked for."""
        return self._engine.can_look_ahead and not self._turns.is_taken

    def look_ahead(self) -> None:
        """The engine's: computes nothing yet."""
        self._engine.look_ahead()

    def submit(self, request_id: int, request: GenerationRequest) -> list[tuple[int, Event]]:
        """The engine's: computes nothing yet."""
        return self._engine.submit(request_id, request)

    def cancel(self, request_id: int) -> list[tuple[int, Event]]:
        """The engine's."""
        return self._engine.cancel(request_id)

    def step(self) -> list[tuple[int, Event]]:
        """In its turn."""
        with self._turns.turn():
            return self._engine.step()

    def fail_all(self, error: TurboPilotError | None = None) -> list[tuple[int, Event]]:
        """The engine's."""
        return self._engine.fail_all(error)

    def reset(self, error: TurboPilotError) -> list[tuple[int, Event]]:
        """The engine's."""
        return self._engine.reset(error)

    def close(self) -> None:
        """The engine's."""
        self._engine.close()
