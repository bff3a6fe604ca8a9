"""Spearman's rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation of paired values; equal values share the mean of their ranks.

    It is None for fewer than three pairs, or if all values of one side are equal.

    >>> rank_correlation([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
    >>> rank_correlation([1, 1, 2], [5, 5, 9])
    1.0
    >>> rank_correlation([1, 2, 3], [7, 7, 7])
    """
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    x, y = _ranks(a), _ranks(b)
    middle = (len(a) + 1) / 2
    both = sum((i - middle) * (j - middle) for i, j in zip(x, y, strict=True))
    found = both / math.sqrt(sum((i - middle) ** 2 for i in x) * sum((j - middle) ** 2 for j in y))
    return round(found, 12)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) + 1) / 2 for v in values]
