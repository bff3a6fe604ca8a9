"""From blocks of logits to a few numbers of each position. Pure numpy: memory is bounded whatever P and V are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from turbopilot.verify.metrics import (
    CLEAR_MARGIN,
    NO_POSITIONS,
    TOP,
    Array,
    Floats,
    Metrics,
    Positions,
    summary,
)
from turbopilot.verify.source import Logits

_EXP_LIMIT = 80.0  # e^80 is near the end of float32


class Accumulator:
    """Takes blocks of positions one after another, then tells the figures of them all."""

    def __init__(self) -> None:
        self._blocks: list[Positions] = []

    def add(
        self, window: int, block: range, ids: Sequence[int], reference: Logits, candidate: Logits
    ) -> None:
        """Take some positions of one window.

        Args:
            window: its index, for `Place`.
            block: the P positions.
            ids: all tokens of the window.
            reference: (P, V), all finite.
            candidate: (P, V).

        Raises:
            ValueError: the shapes differ, or the reference is not finite.
        """
        if reference.shape != candidate.shape or len(block) != len(reference):
            raise ValueError(
                f"{len(block)} positions, {reference.shape} and {candidate.shape} logits: these do not match"
            )
        if not np.isfinite(reference).all():
            raise ValueError(f"the reference's own logits are not finite in window {window}")
        finite: Array = np.asarray(np.isfinite(candidate).all(axis=1))
        if not finite.all():
            candidate = np.where(finite[:, None], candidate, reference)
        at = np.asarray(block)
        following = np.full(len(at), -1)
        inside = at + 1 < len(ids)
        following[inside] = np.asarray(ids)[at[inside] + 1]
        self._blocks.append(_measure(window, at, following, finite, reference, candidate))

    def positions(self) -> Positions:
        """All positions so far."""
        if not self._blocks:
            return NO_POSITIONS
        columns = (
            np.concatenate([getattr(b, f.name) for b in self._blocks]) for f in fields(NO_POSITIONS)
        )
        return Positions(*columns)

    def result(self) -> Metrics:
        """The figures so far. Where no position had finite logits, the errors are 0 and `not_finite` tells."""
        return summary(self.positions())


def log_softmax(logits: Floats) -> Floats:
    """(P, V) → (P, V): log-probabilities."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _measure(
    window: int, at: Array, following: Array, finite: Array, reference: Logits, candidate: Logits
) -> Positions:
    rows = np.arange(len(at))
    delta = candidate - reference
    magnitude = np.abs(delta)
    worst = magnitude.argmax(axis=1)
    choice, other = reference.argmax(axis=1), candidate.argmax(axis=1)
    kl, log_z, other_log_z = _divergence(reference, candidate, delta)
    told = np.where(following >= 0, following, 0)
    rest = (rows * 7919 + at * 104729) % reference.shape[1]
    sampled = np.stack(
        [choice, np.where(following >= 0, following, reference.shape[1] - 1), rest], axis=1
    )
    pairs = np.stack([reference[rows[:, None], sampled], candidate[rows[:, None], sampled]], axis=2)
    return Positions(
        window=np.full(len(at), window),
        position=at,
        next_id=following,
        finite=finite,
        error=_squares(delta),
        power=_squares(reference),
        max_abs=magnitude[rows, worst],
        max_abs_token=worst,
        kl=kl,
        choice=choice,
        other=other,
        clear=_clear(reference, choice),
        in_top=(candidate > candidate[rows, choice][:, None]).sum(axis=1) < TOP,
        loss=np.where(following >= 0, log_z - reference[rows, told], np.nan),
        other_loss=np.where(following >= 0, other_log_z - candidate[rows, told], np.nan),
        sample=pairs,
    )


def _divergence(
    reference: Logits, candidate: Logits, delta: Logits
) -> tuple[Floats, Floats, Floats]:
    """KL(p ‖ q), log Σ e^reference and log Σ e^candidate, each (P,).

    With δ = candidate − reference, KL = log Σ p·e^δ − Σ p·δ. Small differences are kept: nothing large is
    subtracted from anything large, so that float32 does where the logits are near each other.
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


def _clear(reference: Logits, choice: Array) -> Array:
    """Whether no other logit is near the largest."""
    best = np.take_along_axis(reference, choice[:, None], axis=1)
    spread = best - reference.min(axis=1, keepdims=True)
    near: Array = (reference >= best - CLEAR_MARGIN * spread).sum(axis=1) == 1
    return near


def _squares(values: Logits) -> Floats:
    """Σ x² of each row."""
    squares: Floats = np.einsum("pv,pv->p", values, values, dtype=np.float64, casting="same_kind")
    return squares
