"""Choose a type for each tensor within a limit of bytes: the multiple-choice knapsack problem.

Each unit starts at its smallest choice. Steps along the lower convex hull of its choices are taken in the order of loss
saved per byte. The remaining bytes are spent on the single changes that save the most loss. The loss exceeds the
optimum by less than the loss of one step (Kellerer, Pferschy, Pisinger, "Knapsack Problems", ch. 11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """Bytes and loss (at least 0, in any unit of measurement) of one type for one unit."""

    n_bytes: int
    loss: float


def allocate(units: Sequence[Sequence[TypeChoice]], room: int) -> list[int] | None:
    """Return the index of the choice for each unit; None if even the smallest choices exceed `room` bytes."""
    hulls = [_hull(choices) for choices in units]
    chosen = [hull[0] for hull in hulls]
    left = room - sum(choices[i].n_bytes for choices, i in zip(units, chosen, strict=True))
    if left < 0:
        return None
    steps = [
        (_slope(units[u], a, b), u, a, b) for u, hull in enumerate(hulls) for a, b in pairwise(hull)
    ]
    for _, u, a, b in sorted(steps, key=lambda step: (-step[0], step[1])):
        cost = units[u][b].n_bytes - units[u][a].n_bytes
        if chosen[u] == a and cost <= left:  # otherwise smaller steps of other units may fit
            chosen[u] = b
            left -= cost
    return _spend(units, chosen, left)


def _hull(choices: Sequence[TypeChoice]) -> list[int]:
    """Return the indices of the choices on the lower convex hull of (bytes, loss), smallest first."""
    order = sorted(range(len(choices)), key=lambda i: (choices[i].n_bytes, choices[i].loss))
    hull: list[int] = []
    for i in order:
        if hull and choices[i].loss >= choices[hull[-1]].loss:
            continue  # more bytes without less loss
        while len(hull) > 1 and _slope(choices, hull[-2], hull[-1]) <= _slope(choices, hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _slope(choices: Sequence[TypeChoice], a: int, b: int) -> float:
    """Return the loss saved per byte by changing from `a` to the larger `b`."""
    n = choices[b].n_bytes - choices[a].n_bytes
    return (choices[a].loss - choices[b].loss) / n if n else float("inf")


def _spend(units: Sequence[Sequence[TypeChoice]], chosen: list[int], left: int) -> list[int]:
    """Apply the single change that saves the most loss, on or off the hull, until no change fits."""
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
