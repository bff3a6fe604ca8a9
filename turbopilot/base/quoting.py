"""Quotes of values from files in messages."""

from __future__ import annotations

from typing import Final

MOST_QUOTED: Final = 100
"""Most characters of a file's value in a message."""


def quoted(value: object, most: int = MOST_QUOTED) -> str:
    """Return a value as Python writes it, cut to `most` characters, so that a message stays readable.

    >>> quoted("blk.0.attn_q.weight")
    "'blk.0.attn_q.weight'"
    >>> quoted("a" * 1000, most=10)
    "'aaaaa...'"
    """
    # Cut texts and lists first: the representation of a large one would take much memory.
    if isinstance(value, (str, bytes)) and len(value) > most:
        whole = repr(value[:most])
        return whole[: most - 4] + "..." + whole[-1]
    if isinstance(value, (list, tuple)) and len(value) > most:
        value = value[:most]
    if isinstance(value, int) and value.bit_length() > 4 * most:
        return f"an integer of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def shortened(text: str, most: int = MOST_QUOTED) -> str:
    """Return a text cut to `most` characters.

    >>> shortened("a" * 1000, most=10)
    'aaaaaaa...'
    """
    return text if len(text) <= most else text[: most - 3] + "..."
