"""How library code reports progress without printing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called often as work advances, with units done, units in all (bytes, tensors …), and the current item."""

    def __call__(self, done: int, total: int, what: str = "", /) -> None:  # noqa: D102 — above
        ...


def silent(done: int, total: int, what: str = "", /) -> None:
    """Report nothing."""
