"""KL divergence of two next-token distributions, and perplexity of a text, for `verify` and `bench`.

P is the number of positions, V the number of vocabulary rows.
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

_EXP_LIMIT = 80.0  # e^80 is near the largest float32


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity, exp of the mean −log p of the next tokens, and its standard error (0 for fewer than two tokens)."""

    value: float
    error: float


def perplexity(losses: Floats) -> Perplexity:
    """Return the perplexity of losses, (P,), or the ratio of two perplexities, given paired differences of losses."""
    n = len(losses)
    if not n:
        return Perplexity(0.0, 0.0)
    # JSON numbers are doubles, which end near e^709.
    value = math.exp(min(float(losses.mean()), 700.0))
    return Perplexity(value, value * float(losses.std(ddof=1)) / n**0.5 if n > 1 else 0.0)


def log_softmax(logits: Floats) -> Floats:
    """Return the log-probabilities, (P, V), of logits, (P, V)."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def kl_divergence(
    reference: Logits, candidate: Logits, delta: Logits
) -> tuple[Floats, Floats, Floats]:
    """Return KL(p ‖ q) in nats, log Σ e^reference and log Σ e^candidate, each (P,), for finite logits, (P, V).

    With δ = candidate − reference (`delta`), KL = log Σ p·e^δ − Σ p·δ. This form does not subtract large numbers from
    each other, so float32 is accurate enough for small differences.
    """
    top = reference.max(axis=1, keepdims=True)
    e = np.exp(reference - top)
    z = e.sum(axis=1, dtype=np.float64)
    # Adding a constant to δ does not change KL, so subtract the δ of the first choice.
    shift = np.take_along_axis(delta, reference.argmax(axis=1)[:, None], axis=1)
    shifted = delta - shift
    far = np.abs(shifted).max(axis=1) > _EXP_LIMIT
    if far.any():
        shifted[far] = 0
    grown = (e * np.expm1(shifted)).sum(axis=1, dtype=np.float64) / z
    mean = (e * shifted).sum(axis=1, dtype=np.float64) / z
    # Rounding can turn a divergence of zero into about −1e-16.
    kl: Floats = np.maximum(np.log1p(grown) - mean, 0.0)
    log_z: Floats = np.log(z) + top[:, 0]
    other: Floats = log_z + np.log1p(grown) + shift[:, 0]
    if far.any():
        log_p, log_q = (log_softmax(x[far].astype(np.float64)) for x in (reference, candidate))
        kl[far] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)
        other[far] = candidate[far, 0] - log_q[:, 0]
    return kl, log_z, other
