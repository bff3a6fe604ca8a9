"""McNemar's test and the confidence interval of paired proportions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbopilot.tasks.paired import Paired

COUNTS = st.integers(0, 300)


def test_pairs_are_counted() -> None:
    p = Paired.of([(True, True), (True, False), (True, False), (False, True), (False, False)])
    assert (p.both, p.only_reference, p.only_candidate, p.neither) == (1, 2, 1, 1)
    assert (p.n, p.reference, p.candidate) == (5, 3, 2)
    assert p.difference == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("only_reference", "only_candidate", "p_value"),
    # R: binom.test(b, b + c)$p.value
    [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125), (1, 9, 0.021484375), (12, 4, 0.076812744140625)],
)
def test_p_value_is_that_of_the_binomial_test(
    only_reference: int, only_candidate: int, p_value: float
) -> None:
    assert Paired(40, 40, only_reference, only_candidate).p_value == pytest.approx(p_value)


def test_interval_is_that_of_agresti_and_min() -> None:
    # Their formula by hand: counts with 1/2 added are 40.5, 30.5, 10.5, 20.5, so n is 102.
    low, high = Paired(40, 30, 10, 20).interval
    middle, half = 10 / 102, 1.959964 * math.sqrt(31 - 100 / 102) / 102
    assert low == pytest.approx(middle - half)
    assert high == pytest.approx(middle + half)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_interval_and_p_value_are_sound(a: int, b: int, c: int, d: int) -> None:
    p, mirrored = Paired(a, b, c, d), Paired(a, b, d, c)
    low, high = p.interval
    assert -1 <= low < high <= 1
    assert 0 < p.p_value <= 1
    assert p.p_value == mirrored.p_value
    assert mirrored.interval[0] == pytest.approx(-high)
    assert mirrored.interval[1] == pytest.approx(-low)


def test_more_tasks_narrow_the_interval() -> None:
    widths = [high - low for n in (10, 100, 1000) for low, high in [Paired(n, 0, 0, 0).interval]]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] > 0
