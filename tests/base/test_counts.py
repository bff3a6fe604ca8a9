"""Numbers with their noun, and suggestions for misspelt names."""

from __future__ import annotations

import pytest

from turbopilot.base.counts import count
from turbopilot.base.errors import did_you_mean


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1200, "1,200 files")]
)
def test_noun_is_plural_except_for_one(n: int, text: str) -> None:
    assert count(n, "file") == text


def test_each_thing_is_suggested_once_in_its_closest_spelling() -> None:
    stands_for = {
        "--ngl": "n_gpu_layers",
        "--n-gpu-layers": "n_gpu_layers",
        "--n-layers": "n_gpu_layers",
    }
    known = [*stands_for, "--n-gpu-lawyers"]
    hint = did_you_mean("--n-gpu-layer", known, stands_for=stands_for)
    assert hint == "did you mean --n-gpu-layers or --n-gpu-lawyers?"
    assert did_you_mean("--n-gpu-layer", known, stands_for=stands_for, most=1) == (
        "did you mean --n-gpu-layers?"
    )


def test_names_are_listed_if_none_is_similar() -> None:
    assert did_you_mean("x", ["f16", "f32"]) == "available: f16, f32"
    assert did_you_mean("x", []) == "available: "
