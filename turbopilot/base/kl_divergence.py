"""How far two next-token distributions are apart, and how well one foretells a text. Pure numpy. A leaf.

P positions, V vocabulary rows. Both `verify`, which judges a conversion, and `bench`, which measures what a
quantization costs, count with these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Array: TypeAlias = npt.NDArray[Any]
Logits: TypeAlias = npt.NDArray[np.float32]

_EXP_LIMIT = 80.0  # e^80 is near the end of float32


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean −log p of each next token, and its standard error; 0 where there is none."""

    value: float
    error: float


def perplexity(losses: Floats) -> Perplexity:
    """Of losses, (P,), or of paired differences of losses: then it is the ratio of two."""
    n = len(losses)
    if not n:
        return Perplexity(0.0, 0.0)
    # A perplexity beyond e^700 is no number for JSON, and no model either.
    value = math.exp(min(float(losses.mean()), 700.0))
    return Perplexity(value, value * float(losses.std(ddof=1)) / n**0.5 if n > 1 else 0.0)


def log_softmax(logits: Floats) -> Floats:
    """(P, V) → (P, V): log-probabilities."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def kl_divergence(
    reference: Logits, candidate: Logits, delta: Logits
) -> tuple[Floats, Floats, Floats]:
    """KL(p ‖ q) in nats, log Σ e^reference and log Σ e^candidate, each (P,).

    With δ = candidate − reference, KL = log Σ p·e^δ − Σ p·δ. Small differences are kept: nothing large is
    subtracted from anything large, so that float32 does where the logits are near each other.

    Args:
        reference: (P, V), finite.
        candidate: (P, V), finite.
        delta: their difference, which callers have.
    """
    top = reference.max(axis=1, keepdims=True)
    e = np.exp(reference - top)
    z = e.sum(axis=1, dtype=np.float64)
    # Of any constant in δ, KL is independent: that of the first choice is taken out.
    shift = np.take_along_axis(delta, reference.argmax(axis=1)[:, None], axis=1)
    shifted = delta - shift
    far = np.abs(shifted).max(axis=1) > _EXP_LIMIT
    if far.any():
        shifted[far] = 0
    grown = (e * np.expm1(shifted)).sum(axis=1, dtype=np.float64) / z
    mean = (e * shifted).sum(axis=1, dtype=np.float64) / z
    # Rounding can make a zero divergence negative by 1e-16.
    kl: Floats = np.maximum(np.log1p(grown) - mean, 0.0)
    log_z: Floats = np.log(z) + top[:, 0]
    other: Floats = log_z + np.log1p(grown) + shift[:, 0]
    if far.any():
        log_p, log_q = (log_softmax(x[far].astype(np.float64)) for x in (reference, candidate))
        kl[far] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)
        other[far] = candidate[far, 0] - log_q[:, 0]
    return kl, log_z, other
