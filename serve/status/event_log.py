"""The last events of the server: what its models, engines and upstreams log."""

from __future__ import annotations

import logging
from collections import deque
from itertools import count
from typing import Final

from serve.api.status import EventLevel, ServerEvent
from serve.models.status import EVENT_MODEL
from serve.runner.runner import ENGINE_THREAD

MOST_EVENTS: Final = 200
MOST_CHARACTERS: Final = 500  # of an event; errors may list all faults of a file
LOGGERS: Final = ("turbopilot.models", "turbopilot.engine", "turbopilot.upstream")


class EventLog(logging.Handler):
    """Log handler that keeps the last messages, so that events need no second call beside that of the log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._events: deque[ServerEvent] = deque(maxlen=MOST_EVENTS)
        self._ids = count(1)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message. If it repeats the last one, it replaces it."""
        event: ServerEvent = {
            "id": next(self._ids),
            "time": record.created,
            "level": _level(record.levelno),
            "model": str(getattr(record, EVENT_MODEL, "")) or _engine_of(record),
            "text": record.getMessage()[:MOST_CHARACTERS],
        }
        if self._events and _content(self._events[-1]) == _content(event):
            self._events.pop()
        self._events.append(event)

    @property
    def events(self) -> list[ServerEvent]:
        """The last events, the newest last."""
        self.acquire()  # `emit` is called with this lock
        try:
            return list(self._events)
        finally:
            self.release()


def _level(number: int) -> EventLevel:
    if number >= logging.ERROR:
        return "error"
    return "warning" if number >= logging.WARNING else "info"


def _engine_of(record: logging.LogRecord) -> str:
    """Return the name of the model whose engine's thread logs; "" if it is another thread."""
    return (record.threadName or "").partition(f"{ENGINE_THREAD} ")[2]


def _content(event: ServerEvent) -> tuple[str, str, str]:
    return event["level"], event["model"], event["text"]


_log = EventLog()


def watch_events() -> EventLog:
    """Return the log of this process's events, which it keeps from the first call on.

    There is one for all servers of a process, as the loggers are.
    """
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(_log)  # does nothing if it is there
        if not logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.INFO)
    return _log
