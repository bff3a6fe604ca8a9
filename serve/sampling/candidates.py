"""Logits → the tokens that may be chosen, with their weights. Pure.

The order is llama.cpp's default (common/common.h: top_k, top_p, min_p), except that the temperature comes first, as in
OpenAI's description and transformers: top_p and min_p see the probabilities that tokens are drawn with, so a
temperature below 1 narrows them.

Weights are probabilities up to a common factor: the most likely token has 1. A vocabulary has up to 150,000 tokens of
which few matter, so the list is cut before it is sorted, by a bound that provably loses nothing.
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

# Elements of a block, of which `largest` first looks only at the greatest.
_BLOCK = 32
# A first estimate of how improbable a token can be and still belong to the top_p likeliest, as a share of what top_p
# leaves out; if it is too high, it is divided by the second number.
_COARSE = 1 / 16
_FINER = 8
# A double holds 53 bits: exp(-37) of a sum does not change it.
_DOUBLE = 37.0
# Below this share of the vocabulary, taking tokens out is faster than computing with all.
_SPARSE = 0.25
# Elements of a block, which `draw` finds first: a running sum over a whole vocabulary takes far longer.
_DRAW_BLOCK = 512


# Token ids, the weight of each, and the weight of the tokens that they were chosen from. None for the ids means the
# whole vocabulary, in order.
Candidates: TypeAlias = tuple[Ids | None, Weights | FloatWeights, float]


def largest(x: Values, n: int) -> Ids:
    """Return the ids of the n largest, largest first, equal ones by id; fewer if not so many are above minus infinity.

    Args:
        x: (V,), without NaN.
        n: at least 1.
    """
    ids = _at_least_largest(x, n)
    return ids[np.argsort(-x[ids], kind="stable")[:n]]


def _at_least_largest(x: Values, n: int) -> Ids:
    """Return the ids of the n largest and maybe more, by id."""
    size = len(x)
    blocks = size // _BLOCK
    if n >= size:
        return np.flatnonzero(x > -np.inf)
    if blocks < 2 * n:
        floor = np.partition(x, size - n)[size - n]
        return np.flatnonzero(x >= floor) if floor > -np.inf else np.flatnonzero(x > -np.inf)
    # n blocks have a greatest element at or above the n-th of these: so have n elements, and only in such blocks.
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
    """Return exp((x - x[best]) / temperature): (V,), the largest 1."""
    out: FloatWeights = x - x[best]
    with np.errstate(over="ignore"):  # to minus infinity, rightly
        np.multiply(out, np.float32(1 / temperature), out=out)
    np.exp(out, out=out)
    return out


def candidates(logits: Logits, params: SamplingParams, best: int) -> Candidates:
    """Return the tokens that may be chosen.

    Args:
        logits: (V,), bias and penalties applied, without NaN.
        params: with a temperature above `COLDEST`.
        best: the likeliest token, whose logit is finite.
    """
    ids, weights, total = _first(logits, params, best)
    if ids is None or (params.top_p >= 1.0 and not params.top_k):
        return ids, weights, total
    weights = weights.astype(np.float64)
    if not params.top_k:  # top_k has sorted them
        order = np.argsort(-weights, kind="stable")
        ids, weights = ids[order], weights[order]
    n = len(ids)
    if params.top_p < 1.0:
        # The token that crosses the threshold belongs to the set, so that it is never empty.
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
    """Return the position that a number from [0, 1) falls on, if each has a share as large as its weight.

    Args:
        weights: at least one above 0.
        u: uniformly distributed, it makes position i as probable as its weight says.
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
    """Return the first position whose running sum is above the target; if none is, the last that adds anything."""
    at = int(np.searchsorted(ends, target, side="right"))
    return at if at < len(ends) else int(np.searchsorted(ends, ends[-1]))


def _first(logits: Logits, params: SamplingParams, best: int) -> Candidates:
    """Return all tokens that may belong to the result, and perhaps more, in no order."""
    n_vocab, top, temperature = len(logits), logits[best], params.temperature
    if params.top_k > 0:
        return _few(logits, largest(logits, params.top_k), best, temperature)
    # Tokens less probable than this are, all together, less than a rounding error of their sum.
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
    """Return ids that hold the top_p likeliest and not many more.

    All tokens below `rest / V` have less than `rest` together, so those above have more than top_p.
    """
    rest = (1.0 - params.top_p) * total
    least = max(params.min_p, 0.5 * rest / len(weights))  # half of it, as the sums are rounded
    floor = max(min(rest * _COARSE, 1.0), least)
    while True:
        ids = np.flatnonzero(weights >= floor)
        if floor <= least or float(weights[ids].sum()) > params.top_p * total:
            return ids
        floor = max(floor / _FINER, least)
