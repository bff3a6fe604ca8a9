"""The figures themselves, against slow and obvious arithmetic."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbopilot.verify import metrics
from turbopilot.verify.metrics import Accumulator, Metrics, Place

Array: TypeAlias = npt.NDArray[np.float32]


def random_pair(seed: int, t: int, v: int, error: float = 0.3) -> tuple[list[int], Array, Array]:
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(t, v)).astype(np.float32) * 4
    candidate = reference + rng.normal(size=(t, v)).astype(np.float32) * np.float32(error)
    return [int(i) for i in rng.integers(0, v, t)], reference, candidate


def measure(ids: list[int], reference: Array, candidate: Array) -> Metrics:
    seen = Accumulator()
    seen.add(0, ids, reference, candidate)
    return seen.result()


@given(seed=st.integers(0, 1000), t=st.integers(1, 9), v=st.integers(2, 40))
def test_equals_a_slow_loop(seed: int, t: int, v: int) -> None:
    ids, reference, candidate = random_pair(seed, t, v)
    got = measure(ids, reference, candidate)

    def probabilities(row: Array) -> list[float]:
        exps = [math.exp(float(x) - float(row.max())) for x in row]
        return [e / sum(exps) for e in exps]

    pairs = [
        (probabilities(r), probabilities(c)) for r, c in zip(reference, candidate, strict=True)
    ]
    kl = [sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) for p, q in pairs]
    assert got.mean_kl == pytest.approx(sum(kl) / t, abs=1e-9)
    assert got.max_kl == pytest.approx(max(kl), abs=1e-9)
    exact = [(float(r), float(c)) for r, c in zip(reference.flat, candidate.flat, strict=True)]
    error = sum((c - r) ** 2 for r, c in exact)
    assert got.nmse == pytest.approx(error / sum(r**2 for r, _ in exact), rel=1e-9)
    assert got.max_abs == pytest.approx(max(abs(c - r) for r, c in exact))
    assert got.top1 == sum(p.index(max(p)) == q.index(max(q)) for p, q in pairs) / t
    if t > 1:
        loss = -sum(math.log(p[i]) for (p, _), i in zip(pairs, ids[1:], strict=False)) / (t - 1)
        assert got.reference_perplexity == pytest.approx(math.exp(loss), rel=1e-9)


def test_blocks_and_prompts_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, reference, candidate = random_pair(1, 50, 20)
    whole = measure(ids, reference, candidate)
    monkeypatch.setattr(metrics, "_BLOCK", 3 * 20)
    cut = measure(ids, reference, candidate)
    for name in Metrics.__slots__:
        assert getattr(cut, name) == pytest.approx(getattr(whole, name)) or isinstance(
            getattr(cut, name), Place
        )
    assert cut.max_abs_at == whole.max_abs_at
    assert cut.max_kl_at == whole.max_kl_at


def test_places_point_at_the_worst() -> None:
    ids, reference, _ = random_pair(2, 30, 10)
    candidate = reference.copy()
    candidate[17, 4] += 30
    got = measure(ids, reference, candidate)
    assert got.max_abs_at == Place(0, 17, 4)
    assert got.max_kl_at == Place(0, 17, int(reference[17].argmax()))
    assert got.clear_miss_at in (None, Place(0, 17, 4))


def test_equal_logits_are_perfect() -> None:
    ids, reference, _ = random_pair(3, 12, 10)
    got = measure(ids, reference, reference)
    assert (got.nmse, got.mean_kl, got.max_abs, got.top1, got.clear_top1) == (0, 0, 0, 1, 1)
    assert got.reference_perplexity == got.candidate_perplexity


def test_a_near_tie_may_swap_but_a_clear_choice_may_not() -> None:
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
def test_positions_that_are_not_finite_are_counted_and_left_out(value: float) -> None:
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


def test_what_cannot_be_compared_is_refused() -> None:
    ids, reference, candidate = random_pair(5, 8, 10)
    with pytest.raises(ValueError, match="do not match"):
        measure(ids, reference, candidate[:, :9])
    with pytest.raises(ValueError, match="do not match"):
        measure(ids[:3], reference, candidate)
    reference[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        measure(ids, reference, candidate)
