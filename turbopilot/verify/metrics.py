"""How far two models' logits are apart. Pure numpy: knows nothing of models, files or limits.

P positions, V vocabulary rows. Of each position a few numbers are kept (`Positions`), from which all figures are
computed in the end (`summary`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from turbopilot.base.kl_divergence import Array, Floats, Perplexity, perplexity

CLEAR_MARGIN = 0.02
"""A reference's first choice is clear when it leads by more than this share of the spread (largest minus
smallest logit) at its position. Below it, rounding may rightly swap the first two."""

TOP = 5


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
        reference_perplexity=perplexity(known.loss),
        candidate_perplexity=perplexity(known.other_loss),
        perplexity_ratio=perplexity(known.other_loss - known.loss),
    )


def _place(p: Positions, by: Array, token: Array) -> Place | None:
    """Where `by` is largest."""
    if not len(by):
        return None
    i = int(by.argmax())
    return Place(int(p.window[i]), int(p.position[i]), int(token[i]))


def _mean(values: Array) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0


_FLOATS: Floats = np.zeros(0)
_INTEGERS: Array = np.zeros(0, np.int64)
_BOOLS: Array = np.zeros(0, np.bool_)
NO_POSITIONS = Positions(
    window=_INTEGERS, position=_INTEGERS, next_id=_INTEGERS, finite=_BOOLS, error=_FLOATS, power=_FLOATS,
    max_abs=_FLOATS, max_abs_token=_INTEGERS, kl=_FLOATS, choice=_INTEGERS, other=_INTEGERS, clear=_BOOLS,
    in_top=_BOOLS, loss=_FLOATS, other_loss=_FLOATS, sample=np.zeros((0, 3, 2)),
)  # fmt: skip
