"""The common prefix of two token sequences."""

from __future__ import annotations


def common_prefix(a: list[int], b: list[int]) -> int:
    """Return how many tokens both lists begin with."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    # Halving compares slices at C's speed; a loop over thousands of tokens takes as long as a token's computation.
    low, high = 0, n  # a[:low] is common, a[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
