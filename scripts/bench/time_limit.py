"""Hard stop for a script that has to write its report whatever happens."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """The time is up, or a signal asked this process to end. No `except Exception` catches it."""


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise `Stopped` in the block after `seconds`, and at SIGTERM, SIGINT and SIGHUP; only once.

    Whatever the block started is ended by its own `finally`, so later signals are ignored until the block has ended.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        ignore()
        why = "the time is up" if number == signal.SIGALRM else signal.Signals(number).name
        raise Stopped(why)

    def ignore() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    before = {number: signal.getsignal(number) for number in (*_SIGNALS, signal.SIGALRM)}
    for number in before:
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        ignore()
        for number, handler in before.items():
            signal.signal(number, handler)
