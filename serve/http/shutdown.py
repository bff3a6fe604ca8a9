"""Orderly shutdown: refuse new requests, give running ones time to finish, then stop."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serve.models import ModelPool
from turbopilot.base.errors import ServeError

log = logging.getLogger("turbopilot.http")

# Seconds after the grace period in which the server cancels requests, sends its last output and saves the prefix cache.
# With the default grace period this ends the process before `docker stop` does, which waits for 10 seconds.
LAST_SECONDS: Final = 4.0
# Seconds that the thread which ends the process late gets to write its reason.
_LOG_SECONDS: Final = 0.5
_LONGEST: Final = 1e6  # seconds; timers take no arbitrarily long time


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
            try:
                is_first = self.begin()
                if is_first:
                    self._end_by_force()
            except RuntimeError:  # no thread can be started
                is_first = False
            if not is_first:
                os._exit(128 + number)  # as shells report a process ended by a signal

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)

    def _end_by_force(self) -> None:
        """End the process at a fixed time after the grace period, even if a call of llama.cpp never returns."""
        limit = min(self._grace + LAST_SECONDS, _LONGEST)

        def end() -> None:
            time.sleep(limit)
            reason = self._models.hold_up or "clients or files take too long"
            log.critical("ending the process %g s after the signal: %s", limit, reason)
            os._exit(ServeError.exit_code)

        # This timer needs no Python thread, so it works if a call holds the interpreter, if the log blocks because its
        # reader has stopped, and while the interpreter exits.
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115  # it must stay open
        faulthandler.dump_traceback_later(limit + _LOG_SECONDS, exit=True, file=nowhere)
        threading.Thread(target=end, name="turbopilot-end", daemon=True).start()
