"""Recognition of faults in single tensors."""

from __future__ import annotations

import numpy as np
import pytest

from turbopilot.verify.tensor_faults import Suspect, corner, fault


def suspect(got: np.ndarray, values: np.ndarray) -> Suspect:
    return Suspect("output.weight", "Q8_0", got, values, 5e-3, None, 0)


def test_similar_rows_are_not_reported_as_moved() -> None:
    """Compare rows of rare tokens, which differ by less than quantization changes them."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(64, 256)).astype(np.float32)
    values[40:] = values[40] + rng.normal(scale=0.02, size=(24, 256)).astype(np.float32)
    got = values + rng.normal(scale=0.07, size=values.shape).astype(np.float32)
    found = fault(suspect(got, values), {"output.weight": corner(values)})
    assert found is None or found[0] != "moved_rows"


def test_exchanged_rows_are_reported_as_moved() -> None:
    values = np.random.default_rng(2).normal(size=(64, 256)).astype(np.float32)
    got = values.copy()
    got[[10, 50]] = got[[50, 10]]
    found = fault(suspect(got, values), {"output.weight": corner(values)})
    assert found == ("moved_rows", "has rows in the wrong place: 2 of 64 examined")


def test_vector_without_its_constant_is_reported_as_offset() -> None:
    values = np.random.default_rng(3).normal(1, 0.3, 256).astype(np.float32)
    found = fault(suspect(values - 1, values), {"output.weight": corner(values)})
    assert found == ("offset", "has values that are off by -1")


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_rows_without_their_factor_are_reported_as_scaled(noise: float) -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(96, 256)).astype(np.float32)
    values[:64] *= 8
    got = values + rng.normal(scale=noise, size=values.shape).astype(np.float32)
    got[:64] /= 8
    found = fault(suspect(got, values), {"output.weight": corner(values)})
    assert found == ("scaled", "has 64 of 96 rows multiplied by 0.125")
