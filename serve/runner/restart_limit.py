"""Failure of an engine, and the limit on how often it is restarted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from turbopilot.base.errors import DecoderFailed

# The engine is not restarted if it fails more than MAX_RESTARTS times within RESTART_WINDOW seconds.
MAX_RESTARTS, RESTART_WINDOW = 3, 60.0


class RestartLimit:
    """Times of the last restarts.

    Args:
        clock: returns seconds; it may jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=MAX_RESTARTS)

    def allows(self) -> bool:
        """Return whether the engine may be restarted now, and count the restart."""
        now = self._clock()
        if len(self._times) == MAX_RESTARTS and now - self._times[0] < RESTART_WINDOW:
            return False
        self._times.append(now)
        return True


def engine_failure(e: BaseException | None) -> DecoderFailed:
    """Return the error of requests that ended because their engine failed."""
    return DecoderFailed(
        f"the engine failed: {e or type(e).__name__}",
        hint="if it happens again, restart the server",
    )
