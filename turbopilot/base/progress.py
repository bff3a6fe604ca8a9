"""How library code reports long work without printing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol


class Progress(Protocol):
    """Called as work advances; cheap to call often.

    Args:
        done: units finished so far (bytes, tensors, positions).
        total: units in all.
        what: the thing being worked on now, for people.
    """

    def __call__(self, done: int, total: int, what: str = "", /) -> None:  # noqa: D102 — above
        ...


def silent(done: int, total: int, what: str = "", /) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """What a use case of several steps reports to.

    Attributes:
        notify: called with a line for people, before a step or about its result.
        progress: verb → a context manager with the progress of a step.
        transfer: the same for a download.
    """

    notify: Callable[[str], None] = lambda _: None
    progress: Callable[[str], AbstractContextManager[Progress]] = lambda _: nullcontext(silent)
    transfer: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(silent)
