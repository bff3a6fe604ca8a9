"""The stream of snapshots: one a second for all viewers together, made only while there are any."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Final

from turbopilot.base.errors import Overloaded
from turbopilot.base.threads import start_thread

log = logging.getLogger("turbopilot.http")

INTERVAL: Final = 1.0  # seconds between two snapshots
MOST_VIEWERS: Final = 32  # each takes a thread of the server
LINGER: Final = 10  # intervals of further snapshots after the last look, for programs that poll
RETRY_SECONDS: Final = 30  # people rarely close a page sooner


class StatusFeed:
    """Makes snapshots in a thread of its own, and hands each to all viewers.

    Args:
        measure: takes a measurement, and returns the snapshot. Called by one thread at a time, first with True: no
            measurement precedes it, so that it only takes readings to compare the next ones with.
        first: returns the snapshot with which a stream begins.
        pause: waits for some seconds; returns False if the server is shutting down.
    """

    def __init__(
        self,
        measure: Callable[[bool], bytes],
        first: Callable[[], bytes],
        pause: Callable[[float], bool],
    ) -> None:
        self._measure, self._first, self._pause = measure, first, pause
        self._changed = threading.Condition()
        self._is_running = self._is_over = False
        self._left = 0  # intervals without viewers until the thread ends
        self._n_viewers = 0
        self._number, self._snapshot = 0, b""

    @property
    def is_running(self) -> bool:
        """Whether snapshots are being made."""
        return self._is_running

    def look(self) -> None:
        """Make snapshots for a while."""
        with self._changed:
            self._left = LINGER
            if self._is_running or self._is_over:
                return
            self._is_running = True
        try:
            self._measure(True)
            start_thread(self._run, "turbopilot-status")
        except BaseException:
            with self._changed:
                self._is_running = False
            raise

    def _run(self) -> None:
        is_open = self._pause(INTERVAL)
        while is_open:
            try:
                snapshot = self._measure(False)
            except Exception:  # viewers wait for the next one
                log.exception("the status could not be measured")
            else:
                with self._changed:
                    self._number, self._snapshot = self._number + 1, snapshot
                    self._changed.notify_all()
            with self._changed:
                self._left = LINGER if self._n_viewers else self._left - 1
                if self._left < 0:
                    self._is_running = False
                    return
            is_open = self._pause(INTERVAL)
        with self._changed:
            self._is_running, self._is_over = False, True
            self._changed.notify_all()

    def open(self) -> Viewer:
        """Return a new viewer, which the caller must close.

        Raises:
            Overloaded: there are too many.
        """
        with self._changed:
            if self._n_viewers >= MOST_VIEWERS:
                raise Overloaded(
                    f"{MOST_VIEWERS} viewers already read the status",
                    retry_after=RETRY_SECONDS,
                    hint="close another page that shows it",
                )
            self._n_viewers += 1
        viewer = Viewer(self)
        try:
            self.look()
        except BaseException:
            viewer.close()
            raise
        return viewer

    def leave(self) -> None:
        """Count a viewer that has left."""
        with self._changed:
            self._n_viewers -= 1

    def wake(self) -> None:
        """Wake the threads of all viewers."""
        with self._changed:
            self._changed.notify_all()

    def snapshots(self, viewer: Viewer) -> Iterator[bytes]:
        """Yield the present snapshot, then each new one; one that comes while the viewer is not ready is left out."""
        with self._changed:
            seen = self._number
        yield self._first()
        while True:
            with self._changed:
                while self._number == seen and not (viewer.is_gone or self._is_over):
                    self._changed.wait()
                if viewer.is_gone or self._is_over:
                    return
                seen, snapshot = self._number, self._snapshot
            yield snapshot


class Viewer:
    """Reader of the stream; iterate over the snapshots."""

    def __init__(self, feed: StatusFeed) -> None:
        self._feed = feed
        self._is_open = True
        self.is_gone = False

    def __iter__(self) -> Iterator[bytes]:
        return self._feed.snapshots(self)

    def go(self) -> None:
        """End the iteration: the client has disconnected. Callable from any thread."""
        self.is_gone = True
        self._feed.wake()

    def close(self) -> None:
        """Make room for another viewer. Further calls do nothing."""
        if self._is_open:
            self._is_open = False
            self._feed.leave()
