"""A consistent-hashing ring: which upstream a key belongs to, and in which order the others follow.

Each upstream has points on a circle of 64-bit hashes; a key belongs to the first point at or after its own hash. An
upstream that leaves gives only its own keys to others, about 1/n of all, and one that joins takes about 1/n.

Source of the method: Karger et al., "Consistent Hashing and Random Trees", STOC 1997. The number of points is that of
libketama, 160 for each server; the shares of the upstreams then differ by about 1/√160, 8 %.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from math import ceil
from struct import unpack
from typing import Final

POINTS: Final = 160  # of an upstream of weight 1
_IN_DIGEST: Final = 8  # 64-bit hashes in one digest of BLAKE2b


def hash64(text: str) -> int:
    """Return the same 64-bit hash of a text in every process; Python's own `hash` differs between processes."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _points(name: str, count: int) -> Iterator[int]:
    for n in range(ceil(count / _IN_DIGEST)):
        digest = blake2b(f"{name}\0{n}".encode()).digest()
        yield from unpack(">8Q", digest)[: count - n * _IN_DIGEST]


class HashRing:
    """The points of all upstreams, each with `POINTS` × its weight."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        points = sorted(
            (point, name)
            for name, weight in weights.items()
            for point in _points(name, max(1, round(POINTS * weight)))
        )
        self._hashes = [point for point, _ in points]
        self._names = [name for _, name in points]
        self._count = len(weights)

    def walk(self, key: str) -> Iterator[str]:
        """Yield each name once, in the order of their points from the key's hash on."""
        start = bisect_left(self._hashes, hash64(key))
        seen: set[str] = set()
        for i in range(len(self._names)):
            name = self._names[(start + i) % len(self._names)]
            if name not in seen:
                yield name
                seen.add(name)
                if len(seen) == self._count:
                    return
