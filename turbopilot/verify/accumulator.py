"""From blocks of logits to a few numbers of each position. Pure numpy: memory is bounded whatever P and V are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from turbopilot.base.kl_divergence import Array, Floats, kl_divergence
from turbopilot.verify.metrics import (
    CLEAR_MARGIN,
    NO_POSITIONS,
    TOP,
    Metrics,
    Positions,
    summary,
)
from turbopilot.verify.source import Logits


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


def _measure(
    window: int, at: Array, following: Array, finite: Array, reference: Logits, candidate: Logits
) -> Positions:
    rows = np.arange(len(at))
    delta = candidate - reference
    magnitude = np.abs(delta)
    worst = magnitude.argmax(axis=1)
    choice, other = reference.argmax(axis=1), candidate.argmax(axis=1)
    kl, log_z, other_log_z = kl_divergence(reference, candidate, delta)
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
