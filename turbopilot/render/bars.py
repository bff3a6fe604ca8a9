"""Bars and lines of history made of block characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_LEVELS: Final = "▁▂▃▄▅▆▇█"
_FULL, _EMPTY = "█", "·"


def bar(share: float, width: int) -> str:
    """Return a bar that is filled to a share from 0 to 1.

    >>> bar(0.5, 4)
    '██··'
    """
    n = round(min(max(share, 0.0), 1.0) * width) if math.isfinite(share) else width
    return _FULL * n + _EMPTY * (width - n)


def history(values: Sequence[float | None], width: int) -> str:
    """Return one character for each of the last values, as high as its share of the largest; a space for None.

    >>> history([0, 1, None, 8], 3)
    '▂ █'
    """
    shown = values[-width:] if width > 0 else ()
    known = [v for v in shown if v is not None and math.isfinite(v)]
    most = max(known, default=0.0) or 1.0
    return "".join(" " if v is None else _level(v / most) for v in shown)


def _level(share: float) -> str:
    last = len(_LEVELS) - 1
    return _LEVELS[min(last, max(0, round(share * last)))] if math.isfinite(share) else _LEVELS[-1]
