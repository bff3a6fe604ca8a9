"""Orderly shutdown: refuse new requests, give running ones time to finish, then stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

from serve.models import ModelPool

log = logging.getLogger("turbopilot.http")


class Shutdown:
    """Orderly shutdown of a server; it runs once.

    Args:
        models: the models to drain and stop.
        refuse: makes the server refuse new connections.
        leave: makes the server send its remaining output and stop.
        grace: seconds that running requests have to finish.
    """

    def __init__(
        self,
        models: ModelPool,
        *,
        refuse: Callable[[], None],
        leave: Callable[[], None],
        grace: float,
    ) -> None:
        self._models, self._refuse, self._leave = models, refuse, leave
        self._grace = grace
        self._begun = False

    def begin(self) -> bool:
        """Start the shutdown in a new thread. Return False if it was already started."""
        if self._begun:
            return False
        self._begun = True
        self._models.drain()
        threading.Thread(target=self._run, name="turbopilot-shutdown", daemon=True).start()
        return True

    def _run(self) -> None:
        self._refuse()
        if not self._models.wait_until_idle(self._grace):
            log.info("cancelling requests that still run after %g s", self._grace)
        self._models.request_stop()
        self._models.wait_until_idle()
        self._leave()

    def on_signals(self) -> None:
        """Start the shutdown on SIGINT (Ctrl-C) or SIGTERM; a second signal ends the process."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python can set signal handlers only in the main thread

        def on_signal(number: int, _frame: object) -> None:
            if not self.begin():
                os._exit(128 + number)  # as shells report a process ended by a signal

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
