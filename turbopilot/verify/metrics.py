"""How far two models' logits are apart. Pure numpy: knows nothing of models, files or limits.

P positions, V vocabulary rows. Logits come in blocks of positions; of each position a few numbers are kept, from
which all figures are computed in the end, so memory is bounded whatever P and V are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.verify.source import Logits

CLEAR_MARGIN = 0.02
"""A reference's first choice is clear when it leads by more than this share of the spread (largest minus
smallest logit) at its position. Below it, rounding may rightly swap the first two."""

TOP = 5
_EXP_LIMIT = 80.0  # e^80 is near the end of float32
_SAMPLED = 3  # logits of each position that are kept as they are, for the plot

Floats: TypeAlias = npt.NDArray[np.float64]
Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the windows something was: `token` is the vocabulary row it was about."""

    window: int
    position: int
    token: int


@dataclass(frozen=True, slots=True)
class Positions:
    """A few numbers of each of P positions; where the candidate's logits are not finite, only the first four.

    Attributes:
        window: (P,) index of the window.
        position: (P,) place in it.
        next_id: (P,) the token that follows in the text, -1 where none does.
        finite: (P,) whether the candidate's logits are.
        error: (P,) Σ(candidate − reference)² over the logits.
        power: (P,) Σ reference².
        max_abs: (P,) largest |candidate − reference|.
        max_abs_token: (P,) where that is.
        kl: (P,) KL(reference ‖ candidate) in nats.
        choice: (P,) the reference's first choice.
        other: (P,) the candidate's.
        clear: (P,) whether the reference's is clear (see `CLEAR_MARGIN`).
        in_top: (P,) whether the reference's first choice is among the candidate's first `TOP`.
        loss: (P,) −log p of the token that follows, of the reference; NaN where none does.
        other_loss: (P,) the same, of the candidate.
        sample: (P, S, 2) reference and candidate for S tokens: the first choice, the token that follows (or the
            last of the vocabulary), and one taken evenly from the rest.
    """

    window: Array
    position: Array
    next_id: Array
    finite: Array
    error: Floats
    power: Floats
    max_abs: Array
    max_abs_token: Array
    kl: Floats
    choice: Array
    other: Array
    clear: Array
    in_top: Array
    loss: Floats
    other_loss: Floats
    sample: Array

    def where(self, kept: Array) -> Positions:
        """Those of a boolean mask, (P,)."""
        return Positions(*(getattr(self, f.name)[kept] for f in fields(self)))

    def nmse(self) -> float:
        """Σ error / Σ power; 0 where there is nothing."""
        error, power = float(self.error.sum()), float(self.power.sum())
        return 0.0 if error == 0.0 else error / power if power else math.inf


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean −log p of each next token, and its standard error; 0 where there is none."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """The comparison of a candidate with a reference over all measured positions.

    Attributes:
        positions: compared positions, those without finite candidate logits included.
        not_finite: positions where the candidate's logits held NaN or inf; left out of all figures below.
        max_abs: largest |candidate − reference| of any logit.
        max_abs_at: where that was.
        nmse: Σ(candidate − reference)² / Σ reference², over every logit as it is (no mean removed).
        mean_kl: mean over positions of KL(reference ‖ candidate), in nats.
        p99_kl: the largest but for one position in a hundred.
        max_kl: the largest.
        max_kl_at: where that was; `token` is the reference's first choice there.
        mean_delta_p: mean of candidate's minus reference's probability of the right next token.
        rms_delta_p: root of the mean square of that.
        top1: share of positions where both models' first choice is the same.
        top5: share of positions where the reference's first choice is among the candidate's first five.
        clear: positions where the reference's first choice is clear (see `CLEAR_MARGIN`).
        clear_top1: share of those where the candidate's first choice is the same (1.0 where there are none).
        clear_miss_at: the first of those where it is not; `token` is the candidate's choice.
        reference_perplexity: of the text.
        candidate_perplexity: the same for the candidate.
        perplexity_ratio: candidate's by reference's; its error is that of the paired difference, so smaller
            than the two errors would tell.
    """

    positions: int
    not_finite: int
    max_abs: float
    max_abs_at: Place | None
    nmse: float
    mean_kl: float
    p99_kl: float
    max_kl: float
    max_kl_at: Place | None
    mean_delta_p: float
    rms_delta_p: float
    top1: float
    top5: float
    clear: int
    clear_top1: float
    clear_miss_at: Place | None
    reference_perplexity: Perplexity
    candidate_perplexity: Perplexity
    perplexity_ratio: Perplexity


def log_softmax(logits: Floats) -> Floats:
    """(P, V) → (P, V): log-probabilities."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


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
            return _NONE
        columns = (
            np.concatenate([getattr(b, f.name) for b in self._blocks]) for f in fields(_NONE)
        )
        return Positions(*columns)

    def result(self) -> Metrics:
        """The figures so far. Where no position had finite logits, the errors are 0 and `not_finite` tells."""
        return summary(self.positions())


def summary(all_of: Positions) -> Metrics:
    """The figures of some positions."""
    p = all_of.where(all_of.finite)
    known = p.where(p.next_id >= 0)
    delta_p = np.exp(-known.other_loss) - np.exp(-known.loss)
    clear = p.where(p.clear)
    missed = clear.where(clear.choice != clear.other)
    return Metrics(
        positions=len(all_of.window),
        not_finite=int((~all_of.finite).sum()),
        max_abs=float(p.max_abs.max(initial=0.0)),
        max_abs_at=_place(p, p.max_abs, p.max_abs_token),
        nmse=p.nmse(),
        mean_kl=_mean(p.kl),
        p99_kl=float(np.quantile(p.kl, 0.99)) if len(p.kl) else 0.0,
        max_kl=float(p.kl.max(initial=0.0)),
        max_kl_at=_place(p, p.kl, p.choice),
        mean_delta_p=_mean(delta_p),
        rms_delta_p=_mean(np.square(delta_p)) ** 0.5,
        top1=_mean(p.choice == p.other),
        top5=_mean(p.in_top),
        clear=len(clear.window),
        clear_top1=_mean(clear.choice == clear.other) if len(clear.window) else 1.0,
        clear_miss_at=_place(missed, -np.arange(len(missed.window)), missed.other),
        reference_perplexity=_perplexity(known.loss),
        candidate_perplexity=_perplexity(known.other_loss),
        perplexity_ratio=_perplexity(known.other_loss - known.loss),
    )


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


def _place(p: Positions, by: Array, token: Array) -> Place | None:
    """Where `by` is largest."""
    if not len(by):
        return None
    i = int(by.argmax())
    return Place(int(p.window[i]), int(p.position[i]), int(token[i]))


def _mean(values: Array) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0


def _perplexity(losses: Floats) -> Perplexity:
    """Of losses, or of paired differences of losses."""
    n = len(losses)
    if not n:
        return Perplexity(0.0, 0.0)
    # A perplexity beyond e^700 is no number for JSON, and no model either.
    value = math.exp(min(float(losses.mean()), 700.0))
    return Perplexity(value, value * float(losses.std(ddof=1)) / n**0.5 if n > 1 else 0.0)


_FLOATS: Floats = np.zeros(0)
_INTEGERS: Array = np.zeros(0, np.int64)
_BOOLS: Array = np.zeros(0, np.bool_)
_NONE = Positions(
    window=_INTEGERS, position=_INTEGERS, next_id=_INTEGERS, finite=_BOOLS, error=_FLOATS, power=_FLOATS,
    max_abs=_FLOATS, max_abs_token=_INTEGERS, kl=_FLOATS, choice=_INTEGERS, other=_INTEGERS, clear=_BOOLS,
    in_top=_BOOLS, loss=_FLOATS, other_loss=_FLOATS, sample=np.zeros((0, _SAMPLED, 2)),
)  # fmt: skip
