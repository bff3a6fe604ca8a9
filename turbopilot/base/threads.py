"""Threads whose start can fail."""

from __future__ import annotations

import threading
from collections.abc import Callable

from turbopilot.base.errors import ServeError


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread and return it; raise ServeError if the system allows no more threads."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as e:
        raise too_many_threads(e) from e
    return thread


def too_many_threads(error: RuntimeError) -> ServeError:
    """Return the error for `threading.Thread.start` that failed."""
    return ServeError(
        f"no more threads can be started: {error}",
        hint="memory or the limit on processes is too low: see ulimit -a",
    )
