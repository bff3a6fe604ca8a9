"""Progress reports of library code, which never prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol


class Progress(Protocol):
    """Callback for long work: units done, units in all (bytes, tensors …), and the current item."""

    def __call__(self, done: int, total: int, what: str = "", /) -> None:  # noqa: D102 — above
        ...


def silent(done: int, total: int, what: str = "", /) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Callbacks of a use case with several steps.

    Attributes:
        notify: called with a line for the user, before a step or about its result.
        progress: verb → context manager with the progress of a step.
        transfer: the same for a download.
    """

    notify: Callable[[str], None] = lambda _: None
    progress: Callable[[str], AbstractContextManager[Progress]] = lambda _: nullcontext(silent)
    transfer: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(silent)
