"""Recognition of typical conversion faults in a tensor.

Rows in another order, another tensor's rows, a transposed matrix, zeros, infinities, or the values of a coarser type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.verify.criteria import WEIGHT_NOISE

Array: TypeAlias = npt.NDArray[np.float32]
Order: TypeAlias = npt.NDArray[np.intp]

_SAME: Final = 0.45  # relative error below which tensors are the same; unrelated ones have about 2
_ROUNDED: Final = 1e-3  # relative difference of sums that F32 rounds
_OF_FEW_VALUES: Final = ("Q4_0", "Q4_1", "IQ4_NL", "Q3_K", "Q2_K")
_PRINT_ROWS, _PRINT_COLUMNS = 4, 256
_SAMPLED_ROWS, _SAMPLED_COLUMNS = 256, 256


@dataclass(frozen=True, slots=True)
class Suspect:
    """Wrong tensor, with its actual and expected values."""

    name: str  # in the GGUF
    type_name: str  # its GGUF type
    got: Array  # actual values
    values: Array  # expected values
    relative: float  # Σ(got − values)² / Σ values²
    order: Order | None  # source row of each row; None if in the source's order
    head_size: int  # rows of a head; 0 if unknown


def relative_error(got: Array, values: Array) -> tuple[float, float]:
    """Return Σ(got − values)² / Σ values², and the largest difference; computed in blocks of rows."""
    error = power = largest = 0.0
    rows = max(1, (1 << 22) // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), rows):
        a, b = got[start : start + rows].ravel(), values[start : start + rows].ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            delta = a - b
            error += float(np.dot(delta, delta))
            largest = max(largest, float(np.abs(delta).max(initial=0.0)))
        power += float(np.dot(b, b))
    if not np.isfinite(error):
        return np.inf, np.inf
    return (error / power if power else (np.inf if error else 0.0)), largest


def corner(values: Array) -> Array:
    """Return a copy of a tensor's corner, which identifies the tensor."""
    flat: Array = values.reshape(len(values), -1)[:_PRINT_ROWS, :_PRINT_COLUMNS]
    return np.array(flat)


def fault(suspect: Suspect, corners: Mapping[str, Array]) -> tuple[str, str] | None:
    """Return the most certain explanation, if any: a key of `diagnosis.CAUSES` and a description.

    `corners` maps the name of each tensor to the `corner` of its expected values.
    """
    return next(_hypotheses(suspect, corners), None)


def _hypotheses(s: Suspect, corners: Mapping[str, Array]) -> Iterator[tuple[str, str]]:
    """Yield explanations, the most certain first."""
    got, values = s.got, s.values
    if not np.isfinite(got).all():
        n = int((~np.isfinite(got)).sum())
        yield "overflow", f"contains {n:,} NaN or infinite values"
        return
    if not got.any():
        yield "dropped", "is all zeros"
    square = got.ndim > 1 and got.shape[-1] == got.shape[-2]
    if square and relative_error(got.swapaxes(-1, -2), values)[0] < _SAME:
        yield "transposed", "is transposed"
    if got.ndim == 2 and s.head_size and ".attn_" in s.name and len(got) % s.head_size == 0:
        yield from _inside_heads(got, values, s.order, s.head_size)
    mine = corner(got)
    others = {n: relative_error(mine, c)[0] for n, c in corners.items() if c.shape == mine.shape}
    nearest = min(others, key=lambda n: others[n])
    if nearest != s.name and others[nearest] < _SAME:
        yield "swapped", f"holds the rows of {nearest}"
    yield from _moved_rows(got, values)
    yield from _computed(got, values)
    if coarse := _coarser(s):
        yield "requantized", coarse
    if s.relative > _SAME:
        yield "other_weights", "holds other weights"


def _inside_heads(
    got: Array, values: Array, order: Order | None, size: int
) -> Iterator[tuple[str, str]]:
    """Yield explanations for rows in another order within their heads."""
    orders = [_matched(got[i : i + size], values[i : i + size]) for i in range(0, len(got), size)]
    if any(o is None for o in orders):
        return
    plain = np.arange(size)
    odd = [(h, o) for h, o in enumerate(orders) if o is not None and not np.array_equal(o, plain)]
    if not odd:
        return
    permutations = _permutations(order, size)
    if permutations and len(odd) == len(orders):
        skipped, twice = permutations
        if all(np.array_equal(o, skipped) for _, o in odd):
            words = "has its rows in the checkpoint's order: the rotary permutation was skipped"
            yield "rotary_skipped", words
        elif all(np.array_equal(o, twice) for _, o in odd):
            yield "rotary_twice", "had the rotary permutation applied twice"
    head, o = odd[0]
    rolled = next((k for k in (1, -1, 2, -2) if np.array_equal(o, np.roll(plain, k))), 0)
    how = f"rolled by {rolled}" if rolled else "in another order"
    more = f" (and of {len(odd) - 1} more)" if len(odd) > 1 else ""
    yield "head_rows", f"has the rows of head {head} {how}{more}"


def _permutations(order: Order | None, size: int) -> tuple[Order, Order] | None:
    """Return the orders that `_matched` finds if the conversion's order in a head was skipped or applied twice."""
    if order is None or len(order) < size:
        return None
    local = np.argsort(np.argsort(order[:size]))
    if np.array_equal(local, np.arange(size)):
        return None
    return np.argsort(local), local


def _matched(got: Array, values: Array) -> Order | None:
    """Return for each row the equal row of `values`; None if the rows do not match one to one."""
    best, alike = _nearest(got, values)
    return best if alike.all() and len(set(best.tolist())) == len(best) else None


def _nearest(got: Array, values: Array) -> tuple[Order, npt.NDArray[np.bool_]]:
    """Return for each row the row of `values` with the most similar direction, and whether the two are equal."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (got, values))
    likeness = a @ b.T
    return likeness.argmax(axis=1), likeness.max(axis=1) > 1 - _SAME / 2


def _moved_rows(got: Array, values: Array) -> Iterator[tuple[str, str]]:
    """Yield explanations for rows in the wrong place; in a stack of matrices, each matrix is one row."""
    if got.ndim < 2 or len(got) < 3:
        return
    got, values = got.reshape(len(got), -1), values.reshape(len(values), -1)
    rows = np.linspace(0, len(got) - 1, min(_SAMPLED_ROWS, len(got))).astype(np.intp)
    best, alike = _nearest(got[rows, :_SAMPLED_COLUMNS], values[:, :_SAMPLED_COLUMNS])
    if alike.mean() < 0.9:
        return
    steps, counts = np.unique((best - rows) % len(got), return_counts=True)
    step = int(steps[counts.argmax()])
    if counts.max() >= 0.9 * len(rows) and step:
        by = step if step <= len(got) // 2 else step - len(got)
        yield "shifted_rows", f"has its rows shifted by {-by}"
        return
    # The rows of rare tokens are so similar that quantization makes another one the nearest: such rows are in place.
    pairs = zip(got[rows, :_SAMPLED_COLUMNS], values[rows, :_SAMPLED_COLUMNS], strict=True)
    in_place = np.array([_nearest(a[None], b[None])[1][0] for a, b in pairs])
    if n := int(((best != rows) & ~in_place).sum()):
        yield "moved_rows", f"has rows in the wrong place: {n} of {len(rows)} examined"


def _computed(got: Array, values: Array) -> Iterator[tuple[str, str]]:
    """Yield explanations for rows that are multiplied by a constant, or for a vector that is off by one."""
    if got.ndim == 1:
        delta = got - values
        if np.ptp(delta) <= _ROUNDED * abs(float(delta.mean())):
            yield "offset", f"has values that are off by {delta.mean():.3g}"
        return
    flat, should = got.reshape(len(got), -1), values.reshape(len(values), -1)
    power = np.maximum((should * should).sum(axis=1), 1e-30)
    factors = (flat * should).sum(axis=1) / power
    odd = np.abs(np.log2(np.maximum(factors, 1e-30))) > 1 - _SAME
    if odd.any() and relative_error(flat, should * factors[:, None])[0] < _SAME / 4:
        factor, n = float(np.median(factors[odd])), int(odd.sum())
        yield "scaled", f"has {n} of {len(got)} rows multiplied by {factor:.3g}"


def _coarser(s: Suspect) -> str:
    """Return a description if a tensor's values come from a coarser type than its own; "" if they do not."""
    if s.type_name not in ("F32", "F16", "BF16", "Q8_0") or s.got.ndim != 2:
        return ""
    types, few = tuple(WEIGHT_NOISE), ""
    if s.got.shape[1] % 32 == 0:
        blocks = np.sort(s.got[:_SAMPLED_ROWS].reshape(-1, 32), axis=1)
        distinct = int(((np.diff(blocks, axis=1) != 0).sum(axis=1) + 1).max())
        if distinct <= 16:
            types, few = _OF_FEW_VALUES, f", and at most {distinct} different values in any 32"

    def unlike(name: str) -> float:
        return abs(math.log(WEIGHT_NOISE[name] / max(s.relative, 1e-30)))

    near = min(types, key=unlike)
    if not few and unlike(near) > _SAME:
        return ""
    return f"has {near}'s error ({s.relative:.1e}){few}: it was converted from such a file"
