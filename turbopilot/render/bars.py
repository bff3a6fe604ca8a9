"""Bars and lines of history made of block characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LEVELS: Final = "▁▂▃▄▅▆▇█"
_FULL, _EMPTY = "█", "·"


def bar(share: float, width: int) -> str:
    """Return a bar that is filled to a share from 0 to 1.

    >>> bar(0.5, 4)
    '██··'
    """
    n = round(min(max(share, 0.0), 1.0) * width)
    return _FULL * n + _EMPTY * (width - n)


def history(values: Sequence[float | None], width: int, most: float | None = None) -> str:
    """Return one character for each of the last values, as high as its share of `most`; a space for None.

    Args:
        values: from 0, the newest last.
        width: most characters.
        most: value of the highest character; None means the largest of the values.

    >>> history([0, 1, None, 8], 3)
    '▂ █'
    """
    shown = values[-width:] if width > 0 else ()
    if most is None:
        most = max((v for v in shown if v is not None), default=0.0) or 1.0
    return "".join(" " if v is None else _level(v / most) for v in shown)


def _level(share: float) -> str:
    last = len(_LEVELS) - 1
    return _LEVELS[min(last, max(0, round(share * last)))]
