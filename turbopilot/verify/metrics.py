"""Distance between two models' logits.

Only a few numbers are kept for each position (`Positions`), so that memory use does not depend on the vocabulary; all
figures are computed from these (`summary`). P is the number of positions, V the number of vocabulary rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from turbopilot.base.kl_divergence import Array, Floats, Perplexity, kl_divergence, perplexity
from turbopilot.verify.source import Logits

CLEAR_MARGIN = 0.02
"""A first choice is clear if its lead is more than this share of the position's spread (largest minus smallest logit).
With a smaller lead, rounding may swap the first two choices."""

TOP = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Place in a comparison: a vocabulary row (`token`) at a position of a window."""

    window: int
    position: int
    token: int


@dataclass(frozen=True, slots=True)
class Positions:
    """A few numbers for each of P positions. If `finite` is false, only the first four fields are valid."""

    window: Array  # (P,) index of the window
    position: Array  # (P,) position in the window
    next_id: Array  # (P,) next token of the text, -1 if there is none
    finite: Array  # (P,) whether the candidate's logits are finite
    error: Floats  # (P,) Σ(candidate − reference)² over the logits
    power: Floats  # (P,) Σ reference²
    max_abs: Array  # (P,) largest |candidate − reference|
    max_abs_token: Array  # (P,) token with this difference
    kl: Floats  # (P,) KL(reference ‖ candidate) in nats
    choice: Array  # (P,) the reference's first choice
    other: Array  # (P,) the candidate's first choice
    clear: Array  # (P,) whether the reference's choice is clear (see `CLEAR_MARGIN`)
    in_top: Array  # (P,) whether the reference's choice is among the candidate's first `TOP`
    loss: Floats  # (P,) the reference's −log p of the next token; NaN if there is none
    other_loss: Floats  # (P,) the candidate's −log p of the next token
    sample: Array  # (P, 3, 2) both logits of the first choice, the next token (or the last row), and any other row

    def where(self, kept: Array) -> Positions:
        """Return the positions that a boolean mask, (P,), selects."""
        return Positions(*(getattr(self, f.name)[kept] for f in fields(self)))

    def nmse(self) -> float:
        """Return Σ error / Σ power; 0 if there are no positions."""
        error, power = float(self.error.sum()), float(self.power.sum())
        return 0.0 if error == 0.0 else error / power if power else math.inf


@dataclass(frozen=True, slots=True)
class Metrics:
    """Comparison of a candidate with a reference over all measured positions."""

    positions: int  # number of compared positions, including those without finite candidate logits
    not_finite: int  # positions where the candidate's logits are NaN or infinite; excluded from all figures below
    max_abs: float  # largest |candidate − reference| of any logit
    max_abs_at: Place | None  # place of this difference
    nmse: float  # Σ(candidate − reference)² / Σ reference², over every logit, no mean removed
    mean_kl: float  # mean KL(reference ‖ candidate) over positions, in nats
    p99_kl: float  # 99th percentile of KL over positions
    max_kl: float  # maximum of KL over positions
    max_kl_at: Place | None  # place of the maximum; `token` is the reference's first choice there
    mean_delta_p: float  # mean of candidate's minus reference's probability of the next token
    rms_delta_p: float  # root mean square of the same difference
    top1: float  # share of positions where both first choices are equal
    top5: float  # share of positions where the reference's first choice is among the candidate's first five
    clear: int  # positions where the reference's first choice is clear (see `CLEAR_MARGIN`)
    clear_top1: float  # share of those where both first choices are equal (1.0 if there are none)
    clear_miss_at: Place | None  # the first of those where they differ; `token` is the candidate's
    reference_perplexity: Perplexity  # of the text, by the reference
    candidate_perplexity: Perplexity  # of the text, by the candidate
    perplexity_ratio: Perplexity  # candidate's / reference's, with the paired difference's error


def summary(all_of: Positions) -> Metrics:
    """Return the figures over some positions; errors are 0 if no position has finite logits."""
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


def joined(blocks: Sequence[Positions]) -> Positions:
    """Concatenate at least one block of positions."""
    columns = (np.concatenate([getattr(b, f.name) for b in blocks]) for f in fields(Positions))
    return Positions(*columns)


def measure(
    window: int, block: range, ids: Sequence[int], reference: Logits, candidate: Logits
) -> Positions:
    """Compare two models' logits, both (P, V), at the P positions `block` of a window of tokens `ids`.

    Raises:
        ValueError: the shapes differ, or the reference's logits are not finite.
    """
    if reference.shape != candidate.shape or len(block) != len(reference):
        raise ValueError(
            f"{len(block)} positions and logits of shapes {reference.shape} and {candidate.shape} do not match"
        )
    if not np.isfinite(reference).all():
        raise ValueError(f"the reference's own logits are not finite in window {window}")
    finite: Array = np.asarray(np.isfinite(candidate).all(axis=1))
    if not finite.all():
        candidate = np.where(finite[:, None], candidate, reference)
    n_vocab, at = reference.shape[1], np.asarray(block)
    following = np.full(len(at), -1)
    inside = at + 1 < len(ids)
    following[inside] = np.asarray(ids)[at[inside] + 1]

    rows = np.arange(len(at))
    delta = candidate - reference
    magnitude = np.abs(delta)
    worst = magnitude.argmax(axis=1)
    choice, other = reference.argmax(axis=1), candidate.argmax(axis=1)
    kl, log_z, other_log_z = kl_divergence(reference, candidate, delta)
    right = np.where(inside, following, 0)
    rest = (rows * 7919 + at * 104729) % n_vocab
    sampled = np.stack([choice, np.where(inside, following, n_vocab - 1), rest], axis=1)
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
        loss=np.where(inside, log_z - reference[rows, right], np.nan),
        other_loss=np.where(inside, other_log_z - candidate[rows, right], np.nan),
        sample=np.stack([x[rows[:, None], sampled] for x in (reference, candidate)], axis=2),
    )


def _clear(reference: Logits, choice: Array) -> Array:
    """Return for each position whether no other logit is near the largest."""
    best = np.take_along_axis(reference, choice[:, None], axis=1)
    spread = best - reference.min(axis=1, keepdims=True)
    near: Array = (reference >= best - CLEAR_MARGIN * spread).sum(axis=1) == 1
    return near


def _squares(values: Logits) -> Floats:
    squares: Floats = np.einsum("pv,pv->p", values, values, dtype=np.float64, casting="same_kind")
    return squares


def _place(p: Positions, by: Array, token: Array) -> Place | None:
    """Return the place of the largest value in `by`; None if there are no positions."""
    if not len(by):
        return None
    i = int(by.argmax())
    return Place(int(p.window[i]), int(p.position[i]), int(token[i]))


def _mean(values: Array) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0
