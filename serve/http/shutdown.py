"""How a server ends: it takes nothing new, lets what runs end within a time, and goes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

from serve.models import ModelPool

log = logging.getLogger("turbopilot.http")


class Shutdown:
    """Ends a server in an orderly way, once.

    Args:
        models: drained, then stopped.
        refuse: makes the server refuse new connections.
        leave: makes the server send what is left to send, and end.
        grace: seconds that running requests get.
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
        """Begin to end; returns at once. False if that had begun before."""
        if self._begun:
            return False
        self._begun = True
        self._models.drain()
        threading.Thread(target=self._run, name="turbopilot-shutdown", daemon=True).start()
        return True

    def _run(self) -> None:
        self._refuse()
        if not self._models.wait_until_idle(self._grace):
            log.info("ending what still runs after %g s", self._grace)
        self._models.request_stop()
        self._models.wait_until_idle()
        self._leave()

    def on_signals(self) -> None:
        """Begin on Ctrl-C or a polite kill; a second one ends the process on the spot."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread alone

        def on_signal(number: int, _frame: object) -> None:
            if not self.begin():
                os._exit(128 + number)  # as a shell says of what a signal ended

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
