"""Divergence of two next-token distributions, and perplexity of a text, for `verify` and `bench`.

P positions, V vocabulary rows.
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
    """exp of the mean −log p of each next token, and its standard error (0 for fewer than two)."""

    value: float
    error: float


def perplexity(losses: Floats) -> Perplexity:
    """Return the perplexity of losses, (P,); of paired differences of losses, the ratio of two."""
    n = len(losses)
    if not n:
        return Perplexity(0.0, 0.0)
    # JSON has no numbers far beyond e^700.
    value = math.exp(min(float(losses.mean()), 700.0))
    return Perplexity(value, value * float(losses.std(ddof=1)) / n**0.5 if n > 1 else 0.0)


def log_softmax(logits: Floats) -> Floats:
    """Return log-probabilities, (P, V)."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def kl_divergence(
    reference: Logits, candidate: Logits, delta: Logits
) -> tuple[Floats, Floats, Floats]:
    """Return KL(p ‖ q) in nats, log Σ e^reference and log Σ e^candidate, each (P,), of finite logits, (P, V).

    With δ = candidate − reference (`delta`), KL = log Σ p·e^δ − Σ p·δ. No large numbers are subtracted from each other,
    so that float32 is enough for small differences.
    """
    top = reference.max(axis=1, keepdims=True)
    e = np.exp(reference - top)
    z = e.sum(axis=1, dtype=np.float64)
    # KL does not depend on a constant in δ: that of the first choice is taken out.
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
