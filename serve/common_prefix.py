"""How far two token sequences agree. Pure; imports nothing of ours."""

from __future__ import annotations


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens two lists begin with in common."""
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
