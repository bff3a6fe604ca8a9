"""Candidates: the tokens that may be chosen, with their weights, computed from logits by pure functions.

The order is llama.cpp's default (common/common.h: top_k, top_p, min_p), except that the temperature comes first, as in
OpenAI's description and transformers: top_p and min_p use the probabilities with which tokens are drawn, so a
temperature below 1 makes both stricter.

Weights are probabilities up to a common factor: the most likely token has weight 1. A vocabulary has up to 150,000
tokens, of which few matter, so the list is cut before it is sorted, by a bound that keeps every token of the result.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from serve.decoder import Logits
from serve.request import SamplingParams

Ids = npt.NDArray[np.intp]
Values = npt.NDArray[np.floating]
Weights = npt.NDArray[np.float64]
FloatWeights = npt.NDArray[np.float32]

# Block size of `largest`, which first compares the greatest elements of all blocks.
_BLOCK = 32
# First estimate of the smallest weight among the top_p likeliest tokens, as a share of the weight that top_p leaves
# out; while it is too high, it is divided by _FINER.
_COARSE = 1 / 16
_FINER = 8
# A double has 53 bits: adding exp(-37) of a sum does not change the sum.
_DOUBLE = 37.0
# Below this share of the vocabulary, selecting tokens is faster than computing with all of them.
_SPARSE = 0.25
# Block size of `draw`, which finds the block first: a running sum over a whole vocabulary takes far longer.
_DRAW_BLOCK = 512


# Token ids, their weights, and the total weight of the tokens from which they were selected. None for the ids means
# the whole vocabulary, in order.
Candidates: TypeAlias = tuple[Ids | None, Weights | FloatWeights, float]


def largest(x: Values, n: int) -> Ids:
    """Return the ids of the n largest elements, largest first, equal ones by id.

    Elements of minus infinity are left out, so there may be fewer than n.

    Args:
        x: (V,), without NaN.
        n: at least 1.
    """
    ids = _at_least_largest(x, n)
    return ids[np.argsort(-x[ids], kind="stable")[:n]]


def _at_least_largest(x: Values, n: int) -> Ids:
    """Return the ids of the n largest elements, and possibly of others, sorted by id."""
    size = len(x)
    blocks = size // _BLOCK
    if n >= size:
        return np.flatnonzero(x > -np.inf)
    if blocks < 2 * n:
        floor = np.partition(x, size - n)[size - n]
        return np.flatnonzero(x >= floor) if floor > -np.inf else np.flatnonzero(x > -np.inf)
    # The n-th largest of the blocks' maxima is a lower bound: n blocks reach it, so at least n elements do, and all of
    # them are in these blocks.
    end = blocks * _BLOCK
    rows = x[:end].reshape(_BLOCK, blocks)  # a column is a block
    tops = rows.max(axis=0)
    floor = np.partition(tops, blocks - n)[blocks - n]
    if floor == -np.inf:
        return np.flatnonzero(x > -np.inf)
    columns = np.flatnonzero(tops >= floor)
    row, column = np.nonzero(rows[:, columns] >= floor)
    ids = row * blocks + columns[column]
    return np.concatenate([ids, end + np.flatnonzero(x[end:] >= floor)]) if end < size else ids


def weights_of(x: Logits, best: int, temperature: float) -> FloatWeights:
    """Return exp((x - x[best]) / temperature): (V,), at most 1."""
    out: FloatWeights = x - x[best]
    with np.errstate(over="ignore"):  # an overflow to minus infinity gives the correct weight 0
        np.multiply(out, np.float32(1 / temperature), out=out)
    np.exp(out, out=out)
    return out


def candidates(logits: Logits, params: SamplingParams, best: int) -> Candidates:
    """Return the tokens that may be chosen.

    Args:
        logits: (V,), after bias and penalties, without NaN.
        params: the sampling parameters; the temperature must be at least `COLDEST`.
        best: the likeliest token; its logit must be finite.
    """
    ids, weights, total = _first(logits, params, best)
    if ids is None or (params.top_p >= 1.0 and not params.top_k):
        return ids, weights, total
    weights = weights.astype(np.float64)
    if not params.top_k:  # with top_k they are already sorted
        order = np.argsort(-weights, kind="stable")
        ids, weights = ids[order], weights[order]
    n = len(ids)
    if params.top_p < 1.0:
        # The token that crosses the threshold is included, so the set is never empty.
        n = min(n, int(np.searchsorted(np.cumsum(weights), params.top_p * total)) + 1)
    if params.min_p > 0.0:
        n = min(n, max(int(np.count_nonzero(weights >= params.min_p * weights[0])), 1))
    return ids[:n], weights[:n], total


def likeliest(found: Candidates, n: int) -> tuple[Ids, Weights]:
    """Return the n likeliest candidates with their weights, likeliest first."""
    ids, weights, _ = found
    at = largest(weights, n)
    return at if ids is None else ids[at], weights[at].astype(np.float64)


def draw(weights: Weights | FloatWeights, u: float) -> int:
    """Return a position, drawn with a probability proportional to its weight.

    Args:
        weights: weights, of which at least one is above 0.
        u: a uniformly distributed random number in [0, 1).
    """
    start = 0
    n = len(weights)
    if n > _DRAW_BLOCK:
        sums = np.add.reduceat(weights, np.arange(0, n, _DRAW_BLOCK), dtype=np.float64)
        ends = np.cumsum(sums)
        target = u * ends[-1]
        block = _past(ends, target)
        start = block * _DRAW_BLOCK
        weights = weights[start : start + _DRAW_BLOCK]
        target -= ends[block - 1] if block else 0.0
        return start + _past(np.cumsum(weights, dtype=np.float64), target)
    ends = np.cumsum(weights, dtype=np.float64)
    return _past(ends, u * ends[-1])


def _past(ends: Weights, target: float) -> int:
    """Return the first position whose running sum is above the target, else the last one with a weight above 0."""
    at = int(np.searchsorted(ends, target, side="right"))
    return at if at < len(ends) else int(np.searchsorted(ends, ends[-1]))


def _first(logits: Logits, params: SamplingParams, best: int) -> Candidates:
    """Return all tokens that may belong to the result, and possibly others, in no particular order."""
    n_vocab, top, temperature = len(logits), logits[best], params.temperature
    if params.top_k > 0:
        return _few(logits, largest(logits, params.top_k), best, temperature)
    # All tokens below this weight together are smaller than the rounding error of the total.
    least = math.exp(-_DOUBLE) / n_vocab
    if params.min_p > 0.0 and params.top_p >= 1.0:
        least = max(least, min(params.min_p, 1.0))
    likely = logits >= top + np.float32(temperature * math.log(least))
    if least > 1e-9 or np.count_nonzero(likely) < n_vocab * _SPARSE:
        return _few(logits, np.flatnonzero(likely), best, temperature)
    weights = weights_of(logits, best, temperature)
    total = float(weights.sum())
    if params.top_p >= 1.0:
        return None, weights, total
    ids = _bound(weights, total, params)
    return ids, weights[ids], total


def _few(logits: Logits, ids: Ids, best: int, temperature: float) -> Candidates:
    weights: Weights = np.exp((logits[ids].astype(np.float64) - float(logits[best])) / temperature)
    return ids, weights, float(weights.sum())


def _bound(weights: FloatWeights, total: float, params: SamplingParams) -> Ids:
    """Return ids that include the top_p likeliest tokens and few others.

    All tokens with weights below `rest / V` together weigh less than `rest`, so the others reach top_p.
    """
    rest = (1.0 - params.top_p) * total
    # Half of the bound, since sums are rounded.
    least = max(params.min_p, 0.5 * rest / len(weights))
    floor = max(min(rest * _COARSE, 1.0), least)
    while True:
        ids = np.flatnonzero(weights >= floor)
        if floor <= least or float(weights[ids].sum()) > params.top_p * total:
            return ids
        floor = max(floor / _FINER, least)
