"""Which type for which tensor, when there are so many bytes: the knapsack. Pure arithmetic; knows no model.

Each unit (a tensor) takes one of its choices; a choice has bytes and a loss, and losses add up. The answer is near the
best: on the lower convex hull of each unit's choices, steps are taken in the order of what a byte buys, which is
optimal for the bytes that are spent so; what is left over is spent on the single changes that help most. The loss
is above the optimum by less than that of one step (the classic bound of the multiple-choice knapsack: Kellerer,
Pferschy, Pisinger, "Knapsack Problems", ch. 11).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """One type for one unit.

    Attributes:
        n_bytes: that it takes.
        loss: that it costs; any unit of measure, at least 0.
    """

    n_bytes: int
    loss: float


def allocate(units: Sequence[Sequence[Choice]], room: int) -> list[int] | None:
    """For each unit, which of its choices.

    Args:
        units: each with one choice at least.
        room: bytes for all of them.

    Returns:
        Indices; None where even the smallest choices do not fit.
    """
    hulls = [_hull(choices) for choices in units]
    at = [0] * len(units)  # positions in the hulls
    left = room - sum(units[u][hull[0]].n_bytes for u, hull in enumerate(hulls))
    if left < 0:
        return None
    steps = [(-_gain(units[u], hull, 0), u) for u, hull in enumerate(hulls) if len(hull) > 1]
    heapq.heapify(steps)
    while steps:
        _, u = heapq.heappop(steps)
        hull = hulls[u]
        cost = units[u][hull[at[u] + 1]].n_bytes - units[u][hull[at[u]]].n_bytes
        if cost > left:
            continue  # this unit stays; smaller steps of others may fit
        left -= cost
        at[u] += 1
        if at[u] + 1 < len(hull):
            heapq.heappush(steps, (-_gain(units[u], hull, at[u]), u))
    chosen = [hull[i] for hull, i in zip(hulls, at, strict=True)]
    return _spend(units, chosen, left)


def _hull(choices: Sequence[Choice]) -> list[int]:
    """Indices of the choices that no mixture of two others beats, from the smallest on."""
    order = sorted(range(len(choices)), key=lambda i: (choices[i].n_bytes, choices[i].loss))
    hull: list[int] = []
    for i in order:
        if hull and choices[i].loss >= choices[hull[-1]].loss:
            continue  # more bytes for nothing
        while len(hull) > 1 and _slope(choices, hull[-2], hull[-1]) <= _slope(choices, hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _slope(choices: Sequence[Choice], a: int, b: int) -> float:
    """Loss that a byte saves from a to b, which is larger."""
    n = choices[b].n_bytes - choices[a].n_bytes
    return (choices[a].loss - choices[b].loss) / n if n else float("inf")


def _gain(choices: Sequence[Choice], hull: Sequence[int], i: int) -> float:
    return _slope(choices, hull[i], hull[i + 1])


def _spend(units: Sequence[Sequence[Choice]], chosen: list[int], left: int) -> list[int]:
    """Take the single change that saves most, as long as one fits: choices off the hull too."""
    while True:
        best, saved = None, 0.0
        for u, choices in enumerate(units):
            now = choices[chosen[u]]
            for i, c in enumerate(choices):
                if c.n_bytes - now.n_bytes <= left and now.loss - c.loss > saved:
                    best, saved = (u, i), now.loss - c.loss
        if best is None:
            return chosen
        u, i = best
        left -= units[u][i].n_bytes - units[u][chosen[u]].n_bytes
        chosen[u] = i
