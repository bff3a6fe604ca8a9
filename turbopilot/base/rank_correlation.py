"""Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import correlation


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
    return round(correlation(_ranks(a), _ranks(b)), 12)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) + 1) / 2 for v in values]
