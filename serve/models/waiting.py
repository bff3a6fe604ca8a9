"""Waiting for the one place where models are loaded, as long as there is somebody to answer. Knows no models."""

from __future__ import annotations

import threading
from collections.abc import Callable

from serve.models.generation import LOOK_AROUND, ClientGone, ClientWatch


def wait_until(
    is_over: Callable[[], bool], changed: threading.Condition, watch: ClientWatch
) -> None:
    """Wait; the lock, which the caller holds, is given back meanwhile.

    Args:
        is_over: asked with the lock, after each change.
        changed: its lock is reentrant.
        watch: the client's.

    Raises:
        ClientGone: the client left.
    """
    gone = False

    def leave() -> None:
        nonlocal gone
        with changed:
            gone = True
            changed.notify_all()

    def is_settled() -> bool:
        return gone or is_over()

    forget = watch.when_gone(leave) if watch.when_gone else None
    polls = watch.is_gone if forget is None else None
    try:
        while not changed.wait_for(is_settled, LOOK_AROUND if polls else None):
            gone = bool(polls and polls())
    finally:
        if forget:
            forget()
    if gone:
        raise ClientGone
