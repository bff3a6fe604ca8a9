"""How library code tells of long work without printing. A leaf: imports nothing of ours."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as work advances; cheap to call often.

    Args:
        done: units finished so far (bytes, tensors, positions).
        total: units in all.
        what: the thing being worked on now, for a person to read.
    """

    def __call__(self, done: int, total: int, what: str = "", /) -> None:  # noqa: D102 — above
        ...


def silent(done: int, total: int, what: str = "", /) -> None:
    """Report nothing."""
