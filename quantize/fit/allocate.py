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


def allocate_within(
    units: Sequence[Sequence[TypeChoice]],
    inside: Sequence[Sequence[TypeChoice] | None],
    room: int,
    room_inside: int,
) -> list[int] | None:
    """Return the index of the choice for each unit, for a limit of all units and one of some of them.

    If the best choices within the first limit exceed the second one, that one decides about its units, and the others
    get the rest.

    Args:
        units: choices of all units, whose bytes count for `room`.
        inside: the same choices with the bytes that count for `room_inside`; None for a unit that does not count.
        room: most bytes of all units.
        room_inside: most bytes of the units in `inside`.

    Returns:
        The indices; None if the smallest choices exceed a limit.
    """
    chosen = allocate(units, room)
    if chosen is None or _used(inside, chosen) <= room_inside:
        return chosen
    of_inside = allocate([choices for choices in inside if choices], room_inside)
    if of_inside is None:
        return None
    picked = iter(of_inside)
    fixed = [next(picked) if choices else None for choices in inside]
    used = sum(u[i].n_bytes for u, i in zip(units, fixed, strict=True) if i is not None)
    outside = [u for u, i in zip(units, fixed, strict=True) if i is None]
    others = iter(allocate(outside, room - used) or ())
    try:
        return [next(others) if i is None else i for i in fixed]
    except StopIteration:  # the smallest choices exceed what is left
        return None


def _used(inside: Sequence[Sequence[TypeChoice] | None], chosen: Sequence[int]) -> int:
    return sum(u[i].n_bytes for u, i in zip(inside, chosen, strict=True) if u)


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
