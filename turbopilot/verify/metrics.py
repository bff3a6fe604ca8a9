"""How far two models' logits are apart. Pure numpy: knows nothing of models, files or limits.

T tokens, V vocabulary rows. All sums are in float64 and are taken over blocks of positions, so memory
is bounded whatever T and V are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.verify.source import Logits

CLEAR_MARGIN = 0.02
"""A reference's first choice is clear when it leads by more than this share of the spread (largest minus
smallest logit) at its position. Below it, rounding may rightly swap the first two."""

_BLOCK = 1 << 20  # logits handled at once: 8 MiB per float64 temporary

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the prompts something was: `token` is the vocabulary row it was about."""

    prompt: int
    position: int
    token: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """The comparison of a candidate with a reference over all positions of all prompts.

    Attributes:
        positions: compared positions, those without finite candidate logits included.
        not_finite: positions where the candidate's logits held NaN or inf; left out of all figures below.
        max_abs: largest |candidate − reference| of any logit.
        max_abs_at: where that was.
        nmse: Σ(candidate − reference)² / Σ reference², over every logit as it is (no mean removed).
        mean_kl: mean over positions of KL(reference ‖ candidate), in nats.
        max_kl: the largest at one position.
        max_kl_at: where that was; `token` is the reference's first choice there.
        top1: share of positions where both models' first choice is the same.
        clear: positions where the reference's first choice is clear (see `CLEAR_MARGIN`).
        clear_top1: share of those where the candidate's first choice is the same (1.0 where there are none).
        clear_miss_at: the first of those where it is not; `token` is the candidate's choice.
        reference_perplexity: exp of the mean −log p of each next token in the prompts; 0.0 where none.
        candidate_perplexity: the same for the candidate.
    """

    positions: int
    not_finite: int
    max_abs: float
    max_abs_at: Place | None
    nmse: float
    mean_kl: float
    max_kl: float
    max_kl_at: Place | None
    top1: float
    clear: int
    clear_top1: float
    clear_miss_at: Place | None
    reference_perplexity: float
    candidate_perplexity: float


def log_softmax(logits: Floats) -> Floats:
    """(T, V) → (T, V): log-probabilities."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


class Accumulator:
    """Takes prompts one after another, then tells the `Metrics` of them all."""

    def __init__(self) -> None:
        self._positions = self._finite = self._same = self._clear = self._clear_same = (
            self._next
        ) = 0
        self._squared_error = self._squared_reference = self._kl = 0.0
        self._max_abs = self._max_kl = -1.0
        self._max_abs_at: Place | None = None
        self._max_kl_at: Place | None = None
        self._clear_miss_at: Place | None = None
        self._loss = np.zeros(2)

    def add(self, prompt: int, ids: Sequence[int], reference: Logits, candidate: Logits) -> None:
        """Take one prompt.

        Args:
            prompt: its index, for `Place`.
            ids: its T tokens.
            reference: (T, V), all finite.
            candidate: (T, V).

        Raises:
            ValueError: the shapes differ, or the reference is not finite.
        """
        if reference.shape != candidate.shape or len(ids) != len(reference):
            raise ValueError(
                f"{len(ids)} ids, {reference.shape} and {candidate.shape} logits: these do not match"
            )
        for rows in _blocks(*reference.shape):
            self._add_block(prompt, rows.start, ids, reference[rows], candidate[rows])

    def _add_block(
        self, prompt: int, start: int, ids: Sequence[int], reference: Logits, candidate: Logits
    ) -> None:
        if not np.isfinite(reference).all():
            raise ValueError(f"the reference's own logits are not finite in prompt {prompt}")
        self._positions += len(reference)
        kept = np.flatnonzero(np.isfinite(candidate).all(axis=1))
        if not len(kept):
            return
        ref: Floats = reference[kept].astype(np.float64)
        cand: Floats = candidate[kept].astype(np.float64)
        at = kept + start
        self._finite += len(kept)
        self._add_errors(prompt, at, ref, cand)
        self._add_choices(prompt, at, ref, cand)
        self._add_distributions(prompt, at, ids, log_softmax(ref), log_softmax(cand))

    def _add_errors(self, prompt: int, at: npt.NDArray[np.intp], ref: Floats, cand: Floats) -> None:
        delta = np.abs(cand - ref)
        self._squared_error += float(np.square(delta).sum())
        self._squared_reference += float(np.square(ref).sum())
        row, token = divmod(int(delta.argmax()), delta.shape[1])
        if delta[row, token] > self._max_abs:
            self._max_abs = float(delta[row, token])
            self._max_abs_at = Place(prompt, int(at[row]), token)

    def _add_choices(
        self, prompt: int, at: npt.NDArray[np.intp], ref: Floats, cand: Floats
    ) -> None:
        choice, other = ref.argmax(axis=1), cand.argmax(axis=1)
        same = choice == other
        best_two = (
            np.partition(ref, -2, axis=1)[:, -2:] if ref.shape[1] > 1 else np.zeros((len(ref), 2))
        )
        clear = best_two[:, 1] - best_two[:, 0] > CLEAR_MARGIN * (ref.max(axis=1) - ref.min(axis=1))
        self._same += int(same.sum())
        self._clear += int(clear.sum())
        self._clear_same += int((same & clear).sum())
        missed = np.flatnonzero(clear & ~same)
        if len(missed) and self._clear_miss_at is None:
            self._clear_miss_at = Place(prompt, int(at[missed[0]]), int(other[missed[0]]))

    def _add_distributions(
        self,
        prompt: int,
        at: npt.NDArray[np.intp],
        ids: Sequence[int],
        log_p: Floats,
        log_q: Floats,
    ) -> None:
        # Rounding can make a zero divergence negative by 1e-16.
        kl = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)
        self._kl += float(kl.sum())
        worst = int(kl.argmax())
        if kl[worst] > self._max_kl:
            self._max_kl = float(kl[worst])
            self._max_kl_at = Place(prompt, int(at[worst]), int(log_p[worst].argmax()))
        rows = np.flatnonzero(at + 1 < len(ids))
        following = np.asarray(ids, np.intp)[at[rows] + 1]
        self._next += len(rows)
        self._loss -= (float(log_p[rows, following].sum()), float(log_q[rows, following].sum()))

    def result(self) -> Metrics:
        """The figures so far. Where no position had finite logits, the errors are 0 and `not_finite` tells."""
        n = max(1, self._finite)
        # A perplexity beyond e^700 is no number for JSON, and no model either.
        perplexity = (
            np.exp(np.minimum(self._loss / self._next, 700.0)) if self._next else np.zeros(2)
        )
        return Metrics(
            positions=self._positions,
            not_finite=self._positions - self._finite,
            max_abs=max(0.0, self._max_abs),
            max_abs_at=self._max_abs_at,
            nmse=_ratio(self._squared_error, self._squared_reference),
            mean_kl=self._kl / n,
            max_kl=max(0.0, self._max_kl),
            max_kl_at=self._max_kl_at,
            top1=self._same / n,
            clear=self._clear,
            clear_top1=self._clear_same / self._clear if self._clear else 1.0,
            clear_miss_at=self._clear_miss_at,
            reference_perplexity=float(perplexity[0]),
            candidate_perplexity=float(perplexity[1]),
        )


def _ratio(error: float, reference: float) -> float:
    if error == 0.0:
        return 0.0
    return error / reference if reference else math.inf


def _blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, n_columns))
    return (slice(i, i + step) for i in range(0, n_rows, step))
