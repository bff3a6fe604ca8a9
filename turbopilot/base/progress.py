"""Progress callbacks for library code, which never prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol


class Progress(Protocol):
    """Callback for long work: number of units done, total number of units (bytes, tensors …), and the current item."""

    def __call__(self, done: int, total: int, what: str = "", /) -> None:  # noqa: D102 — see the class
        ...


def silent(done: int, total: int, what: str = "", /) -> None:
    """Ignore the progress."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Callbacks by which a use case with several steps reports to the user.

    Attributes:
        notify: called with a line for the user, before a step or about its result.
        progress: returns a context manager that provides the progress callback of a step, given its verb.
        transfer: returns the same for a download.
    """

    notify: Callable[[str], None] = lambda _: None
    progress: Callable[[str], AbstractContextManager[Progress]] = lambda _: nullcontext(silent)
    transfer: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(silent)
