"""How a server ends: it takes nothing new, lets what runs end within a time, and goes. Knows no HTTP."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("turbopilot.http")


class Computing(Protocol):
    """What is to be ended: an `EngineRunner`, or the models of a `ModelPool`."""

    def drain(self) -> None:
        """Refuse new requests from now on; the present ones go on. A signal handler calls it."""

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits or runs; False where the timeout (seconds) was over before."""

    def request_stop(self) -> None:
        """End the present requests. Returns at once."""


class Shutdown:
    """Ends a server in an orderly way, once.

    Args:
        computing: is drained, then stopped.
        refuse: makes the server refuse new connections; from any thread.
        leave: makes the server send what is left to send, and end; from any thread.
        grace: seconds that running requests get.
    """

    def __init__(
        self,
        computing: Computing,
        *,
        refuse: Callable[[], None],
        leave: Callable[[], None],
        grace: float,
    ) -> None:
        self._computing, self._refuse, self._leave = computing, refuse, leave
        self._grace = grace
        self._begun = False

    def begin(self) -> bool:
        """Begin to end; returns at once. False where that had begun before."""
        if self._begun:
            return False
        self._begun = True
        self._computing.drain()
        threading.Thread(target=self._run, name="turbopilot-shutdown", daemon=True).start()
        return True

    def _run(self) -> None:
        self._refuse()
        if not self._computing.wait_until_idle(self._grace):
            log.info("ending what still runs after %g s", self._grace)
        self._computing.request_stop()
        self._computing.wait_until_idle()
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
