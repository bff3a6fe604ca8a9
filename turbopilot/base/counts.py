"""Numbers with their noun."""

from __future__ import annotations


def count(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural if needed.

    >>> count(1, "file"), count(1200, "more file")
    ('1 file', '1,200 more files')
    """
    return f"{n:,} {noun if n == 1 else noun + 's'}"
