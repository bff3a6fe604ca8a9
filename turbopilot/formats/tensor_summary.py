"""Summaries of tensors, independent of the file format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorLine:
    """Description of one tensor: `shape` is outermost first, `offset` is in bytes from the start of `file`."""

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int
    offset: int
    file: str


@dataclass(frozen=True, slots=True)
class TypeShare:
    """Totals over the tensors of one type; `share` is their share of all bytes."""

    type: str
    n_tensors: int
    n_weights: int
    n_bytes: int
    share: float


def bytes_by_type(tensors: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return type → bytes, largest first, for tensors given as (type, bytes)."""
    sizes: Counter[str] = Counter()
    for name, n_bytes in tensors:
        sizes[name] += n_bytes
    return dict(sizes.most_common())


def by_type(tensors: Iterable[tuple[str, int, int]]) -> tuple[TypeShare, ...]:
    """Return the share of each type, largest first, for tensors given as (type, weights, bytes).

    >>> [(s.type, s.n_bytes) for s in by_type([("F32", 2, 8), ("F16", 9, 18), ("F32", 1, 4)])]
    [('F16', 18), ('F32', 12)]
    """
    sums: dict[str, tuple[int, int, int]] = {}
    for name, n_weights, n_bytes in tensors:
        n, w, b = sums.get(name, (0, 0, 0))
        sums[name] = (n + 1, w + n_weights, b + n_bytes)
    total = sum(b for _, _, b in sums.values()) or 1
    shares = (TypeShare(name, n, w, b, b / total) for name, (n, w, b) in sums.items())
    return tuple(sorted(shares, key=lambda s: (-s.n_bytes, s.type)))
