"""Tests of the metrics against slow, straightforward arithmetic."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbopilot.base.kl_divergence import log_softmax
from turbopilot.verify.metrics import Metrics, Place, joined, summary
from turbopilot.verify.metrics import measure as measured

Array: TypeAlias = npt.NDArray[np.float32]


def random_pair(seed: int, t: int, v: int, error: float = 0.3) -> tuple[list[int], Array, Array]:
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(t, v)).astype(np.float32) * 4
    candidate = reference + rng.normal(size=(t, v)).astype(np.float32) * np.float32(error)
    return [int(i) for i in rng.integers(0, v, t)], reference, candidate


def measure(ids: list[int], reference: Array, candidate: Array) -> Metrics:
    return summary(measured(0, range(len(ids)), ids, reference, candidate))


@given(seed=st.integers(0, 1000), t=st.integers(1, 9), v=st.integers(2, 40))
def test_metrics_match_a_plain_loop(seed: int, t: int, v: int) -> None:
    ids, reference, candidate = random_pair(seed, t, v)
    got = measure(ids, reference, candidate)

    def probabilities(row: Array) -> list[float]:
        exps = [math.exp(float(x) - float(row.max())) for x in row]
        return [e / sum(exps) for e in exps]

    pairs = [
        (probabilities(r), probabilities(c)) for r, c in zip(reference, candidate, strict=True)
    ]
    kl = [sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) for p, q in pairs]
    assert got.mean_kl == pytest.approx(sum(kl) / t, abs=1e-6)
    assert got.max_kl == pytest.approx(max(kl), abs=1e-6)
    exact = [(float(r), float(c)) for r, c in zip(reference.flat, candidate.flat, strict=True)]
    error = sum((c - r) ** 2 for r, c in exact)
    assert got.nmse == pytest.approx(error / sum(r**2 for r, _ in exact), rel=1e-6)
    assert got.max_abs == pytest.approx(max(abs(c - r) for r, c in exact))
    assert got.top1 == sum(p.index(max(p)) == q.index(max(q)) for p, q in pairs) / t
    if t > 1:
        loss = -sum(math.log(p[i]) for (p, _), i in zip(pairs, ids[1:], strict=False)) / (t - 1)
        assert got.reference_perplexity.value == pytest.approx(math.exp(loss), rel=1e-6)


def test_metrics_do_not_depend_on_block_size() -> None:
    ids, reference, candidate = random_pair(1, 50, 20)
    blocks = [range(50)[start : start + 3] for start in range(0, 50, 3)]
    parts = [measured(0, b, ids, reference[list(b)], candidate[list(b)]) for b in blocks]
    assert summary(joined(parts)) == measure(ids, reference, candidate)


def test_kl_of_distant_logits_is_finite() -> None:
    """Use logit differences that overflow exp() in float32."""
    ids, reference, _ = random_pair(6, 5, 12)
    candidate = (reference * -1000).astype(np.float32)
    log_p, log_q = (log_softmax(x.astype(np.float64)) for x in (reference, candidate))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    got = measure(ids, reference, candidate)
    assert got.mean_kl == pytest.approx(kl.mean(), rel=1e-5)
    assert got.candidate_perplexity.value > 1e100


def test_kl_of_nearly_equal_logits_is_accurate() -> None:
    rng = np.random.default_rng(7)
    reference = (rng.normal(size=(20, 5000)) * 4).astype(np.float32)
    candidate = reference + (rng.normal(size=reference.shape) * 1e-4).astype(np.float32)
    log_p, log_q = (log_softmax(x.astype(np.float64)) for x in (reference, candidate))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    got = measure([0] * 20, reference, candidate)
    assert got.mean_kl == pytest.approx(kl.mean(), rel=0.02)
    assert 1e-10 < got.mean_kl < 1e-8


def test_top5_and_delta_p_match_exact_values() -> None:
    reference = np.zeros((2, 8), np.float32)
    reference[:, 0] = 5.0
    candidate = np.zeros((2, 8), np.float32)
    candidate[0, 1:5] = 1.0  # the reference's first choice comes fifth
    candidate[1, 1:6] = 1.0  # sixth
    got = measure([0, 0], reference, candidate)
    assert (got.top1, got.top5) == (0.0, 0.5)
    right = math.exp(5) / (math.exp(5) + 7)
    given = 1 / (4 + 4 * math.e)
    assert got.mean_delta_p == pytest.approx(given - right)
    assert got.rms_delta_p == pytest.approx(right - given)


def test_perplexity_ratio_uses_the_paired_error() -> None:
    rng = np.random.default_rng(8)
    reference = (rng.normal(size=(400, 30)) * 3).astype(np.float32)
    candidate = reference + (rng.normal(size=reference.shape) * 0.05).astype(np.float32)
    got = measure([int(i) for i in rng.integers(0, 30, 400)], reference, candidate)
    ratio, reference_ppl = got.perplexity_ratio, got.reference_perplexity
    assert ratio.error < reference_ppl.error / reference_ppl.value / 10
    assert ratio.value == pytest.approx(got.candidate_perplexity.value / reference_ppl.value)


def test_places_are_those_of_the_largest_differences() -> None:
    ids, reference, _ = random_pair(2, 30, 10)
    candidate = reference.copy()
    candidate[17, 4] += 30
    got = measure(ids, reference, candidate)
    assert got.max_abs_at == Place(0, 17, 4)
    assert got.max_kl_at == Place(0, 17, int(reference[17].argmax()))
    assert got.clear_miss_at in (None, Place(0, 17, 4))


def test_equal_logits_have_no_error() -> None:
    ids, reference, _ = random_pair(3, 12, 10)
    got = measure(ids, reference, reference)
    assert (got.nmse, got.mean_kl, got.max_abs, got.top1, got.clear_top1) == (0, 0, 0, 1, 1)
    assert got.reference_perplexity == got.candidate_perplexity


def test_clear_top1_ignores_swapped_near_ties() -> None:
    reference = np.zeros((2, 100), np.float32)
    reference[:, 99] = -10.0  # a spread of about 10, so 2 % is 0.2
    reference[0, :2] = 0.11, 0.1
    reference[1, :2] = 1.0, 0.1
    candidate = reference.copy()
    candidate[0, 1] = 0.12
    got = measure([0, 0], reference, candidate)
    assert (got.top1, got.clear, got.clear_top1) == (0.5, 1, 1.0)
    candidate[1, 1] = 2.0
    got = measure([0, 0], reference, candidate)
    assert (got.clear_top1, got.clear_miss_at) == (0.0, Place(0, 1, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_positions_with_nan_or_infinity_are_counted_and_excluded(value: float) -> None:
    ids, reference, candidate = random_pair(4, 8, 10)
    rest = measure(ids[:7], reference[:7], candidate[:7])
    candidate[7, 3] = value
    got = measure(ids, reference, candidate)
    assert (got.positions, got.not_finite) == (8, 1)
    assert got.nmse == pytest.approx(rest.nmse)
    candidate[:] = value
    nothing = measure(ids, reference, candidate)
    assert nothing.not_finite == 8
    assert all(math.isfinite(x) for x in (nothing.nmse, nothing.mean_kl, nothing.max_abs))


def test_shape_mismatch_or_nan_reference_is_rejected() -> None:
    ids, reference, candidate = random_pair(5, 8, 10)
    with pytest.raises(ValueError, match="do not match"):
        measure(ids, reference, candidate[:, :9])
    with pytest.raises(ValueError, match="do not match"):
        measure(ids[:3], reference, candidate)
    reference[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        measure(ids, reference, candidate)
