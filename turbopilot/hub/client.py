"""Settings of the hub's client while we work with it, and its locks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_log = logging.getLogger("turbopilot.hub")


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock between processes while the body runs; waits where another has it.

    By the client's own helper, which knows file systems without locks.
    """
    from huggingface_hub.utils import WeakFileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(lock, timeout=0.1))
        except TimeoutError:
            _log.warning("another download of the same is under way: waiting for it")
            held.enter_context(WeakFileLock(lock))
        yield


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep the client from drawing progress bars beside ours, unless HF_HUB_DISABLE_PROGRESS_BARS=0 wants them."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled() or constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
