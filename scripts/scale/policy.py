"""Ways to choose a replica for a request; `Affinity` is the router of `serve --upstream`."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Final, Protocol

from serve.upstream.health import Outcome
from serve.upstream.routing import RouteKey, Router, Upstream


class Policy(Protocol):
    """Chooses replicas 0 … n-1. `pick` counts the request as begun."""

    def pick(self, key: RouteKey, now: float) -> int: ...
    def end(self, replica: int, outcome: Outcome, now: float, waited: float) -> None: ...


class Affinity:
    """Consistent hashing with bounded load."""

    def __init__(self, n: int, slots: int) -> None:
        self.router = Router(Upstream(str(i), slots=slots) for i in range(n))
        self._probes: set[str] = set()

    def pick(self, key: RouteKey, now: float) -> int:
        name = self.router.pick(key, now)
        assert name is not None, "no replica fails here, so none is ejected for good"
        if self.router.begin(name, now):
            self._probes.add(name)
        return int(name)

    def end(self, replica: int, outcome: Outcome, now: float, waited: float) -> None:
        name = str(replica)
        self.router.end(name, outcome, now, waited, probe=name in self._probes)
        self._probes.discard(name)


class RandomChoice:
    """Any replica."""

    def __init__(self, n: int, seed: int) -> None:
        self._n, self._random = n, random.Random(seed)

    def pick(self, key: RouteKey, now: float) -> int:
        return self._random.randrange(self._n)

    def end(self, replica: int, outcome: Outcome, now: float, waited: float) -> None:
        pass


class RoundRobin:
    """One replica after another."""

    def __init__(self, n: int) -> None:
        self._turns = itertools.cycle(range(n))

    def pick(self, key: RouteKey, now: float) -> int:
        return next(self._turns)

    def end(self, replica: int, outcome: Outcome, now: float, waited: float) -> None:
        pass


class LeastLoaded:
    """The replica with the fewest requests in flight; of equal ones, the one that was least loaded for longest."""

    def __init__(self, n: int) -> None:
        self._loads = [0] * n
        self._count = itertools.count()
        self._heap = [(0, next(self._count), i) for i in range(n)]  # with outdated entries

    def pick(self, key: RouteKey, now: float) -> int:
        while True:
            load, _, i = heapq.heappop(self._heap)
            if load == self._loads[i]:
                break
        self._set(i, load + 1)
        return i

    def end(self, replica: int, outcome: Outcome, now: float, waited: float) -> None:
        self._set(replica, self._loads[replica] - 1)

    def _set(self, i: int, load: int) -> None:
        self._loads[i] = load
        heapq.heappush(self._heap, (load, next(self._count), i))


AFFINITY: Final = "affinity"
STRICT: Final = "strict bound"  # affinity that also moves requests that would not wait
POLICIES: Final = (AFFINITY, STRICT, "random", "round robin", "least loaded")


def policy(name: str, n: int, slots: int, seed: int = 0) -> Policy:
    """Return a policy for `n` replicas with `slots` slots each."""
    if name in (AFFINITY, STRICT):
        return Affinity(n, slots if name == AFFINITY else 1)
    if name == "random":
        return RandomChoice(n, seed)
    return RoundRobin(n) if name == "round robin" else LeastLoaded(n)
