"""Rules for the levels of quantized weights: they hold for every file of ggml, and break for a row that differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from turbopilot.llama.rounding import Rounding
from turbopilot.verify.criteria import WEIGHT_NOISE
from turbopilot.verify.level_grids import Misplaced, misplaced
from turbopilot.verify.row_figures import Array, to_bf16, to_f16

GRID_TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS", "MXFP4")
PLAIN_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
SIGN_TYPES = ("IQ3_S",)
GGML = Rounding()


def rows_of(seed: int, scale: float = 0.05, n: int = 24, columns: int = 512) -> Array:
    """Return rows of several distributions, some far from normal."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, columns)) * scale
    rows[1] = rng.laplace(size=columns) * scale
    rows[2, 7] = 60 * scale
    rows[3] += 20 * scale
    rows[4] = np.abs(rows[4])
    rows[5, ::2] = 0
    rows[6] = 0
    rows[7] *= 1e-4
    return rows.astype(np.float32)


def off(
    rows: Array, kind: str, expected: Array | None = None, matrix: Array | None = None
) -> Misplaced:
    packed = GGML.packed(rows, kind, matrix)
    return misplaced(
        kind, packed, GGML.values(packed, kind), rows if expected is None else expected, GGML
    )


def uneven(columns: int = 512) -> Array:
    return np.exp(1.5 * np.random.default_rng(5).normal(size=columns)).astype(np.float32)


@pytest.mark.parametrize("kind", [*GRID_TYPES, *PLAIN_TYPES, *SIGN_TYPES])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-5, 1e-3, 0.05, 3.0, 500.0]))
@example(seed=897, scale=1e-5)
def test_levels_of_correct_rows_are_the_nearest(kind: str, seed: int, scale: float) -> None:
    n = 8 if kind in SIGN_TYPES else 24
    found = off(rows_of(seed, scale, n=n), kind)
    assert (found.always <= 0).all(), np.flatnonzero(found.always > 0)
    assert (found.plain <= 0).all(), np.flatnonzero(found.plain > 0)


@pytest.mark.parametrize("kind", [*GRID_TYPES, "IQ3_S", "IQ2_S"])
def test_levels_are_the_nearest_with_an_importance_matrix_too(kind: str) -> None:
    n = 8 if kind.startswith(("IQ2", "IQ3")) else 24
    assert (off(rows_of(1, n=n), kind, matrix=uneven()).always <= 0).all()


@pytest.mark.parametrize("kind", PLAIN_TYPES)
def test_an_importance_matrix_breaks_the_rules_for_none(kind: str) -> None:
    found = off(rows_of(1), kind, matrix=uneven())
    assert (found.plain > 0).mean() > 0.2


@pytest.mark.parametrize("kind", [k for k in GRID_TYPES if k not in ("Q2_K", "Q3_K")])
@pytest.mark.parametrize("matrix", [None, uneven()], ids=["plain", "matrix"])
def test_row_scaled_by_one_percent_has_other_levels(kind: str, matrix: Array | None) -> None:
    rows = np.random.default_rng(2).normal(size=(40, 512)).astype(np.float32)
    found = off(rows * np.float32(1.01), kind, rows, matrix)
    assert (found.always > 0).mean() > 0.9


@pytest.mark.parametrize("kind", [*PLAIN_TYPES, "IQ3_S"])
def test_row_scaled_by_one_percent_is_found_without_a_matrix(kind: str) -> None:
    rows = np.random.default_rng(2).normal(size=(8, 512)).astype(np.float32)
    assert (off(rows * np.float32(1.01), kind, rows).plain > 0).all()


@pytest.mark.parametrize("kind", ["IQ3_S", "IQ2_S"])
def test_flipped_sign_is_found(kind: str) -> None:
    rows = np.random.default_rng(3).normal(size=(4, 256)).astype(np.float32)
    expected = rows.copy()
    expected[2, 100] *= -1
    found = off(rows, kind, expected, uneven(256))
    assert np.flatnonzero(found.always > 0).tolist() == [2]


def test_types_without_rules_find_nothing() -> None:
    got, values = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    for kind in WEIGHT_NOISE.keys() - {*GRID_TYPES, *PLAIN_TYPES, "IQ3_S", "IQ2_S"}:
        nothing = misplaced(kind, np.zeros((2, 1), np.uint8), got, values, GGML)
        assert (nothing.always < 0).all()
        assert (nothing.plain < 0).all()


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-6e4, max_value=6e4))
def test_rounding_to_half_precision_is_to_nearest(value: float) -> None:
    values = np.array([value], np.float32)
    assert abs(float(to_f16(values)[0]) - value) <= abs(value) * 2**-11 + 2**-25
    assert abs(float(to_bf16(values)[0]) - value) <= abs(value) * 2**-8 + 2**-133
    assert (to_bf16(values).view(np.uint32) & 0xFFFF == 0).all()
