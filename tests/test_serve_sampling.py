from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.request import SamplingParams
from serve.sampling import Sampler, distribution, penalize, seed_sequence
from turbopilot.errors import DecoderFailed


def logits(*values: float) -> np.typing.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def picks(
    params: SamplingParams, x: np.typing.NDArray[np.float32], n: int, seed: int = 1
) -> list[int]:
    sampler = Sampler(params, seed_sequence(seed, params.stream))
    return [sampler.pick(x, []) for _ in range(n)]


def test_temperature_zero_is_greedy() -> None:
    assert picks(SamplingParams(temperature=0), logits(1, 3, 2), 20) == [1] * 20


def test_a_tiny_temperature_neither_overflows_nor_wanders() -> None:
    assert picks(SamplingParams(temperature=1e-300, top_p=1), logits(1, 3, 2), 5) == [1] * 5
    assert picks(SamplingParams(temperature=1e-5, top_p=1), logits(1, 3, 2), 5) == [1] * 5


def test_frequencies_follow_the_softmax() -> None:
    x = logits(0, 1, 2, -np.inf)
    n = 20_000
    counts = np.bincount(picks(SamplingParams(temperature=1, top_p=1), x, n), minlength=4)
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    # Five standard deviations; the seed is fixed, so this cannot flicker.
    assert np.abs(counts[:3] / n - expected).max() < 5 * np.sqrt(0.25 / n)
    assert counts[3] == 0


def test_a_seed_repeats_and_another_differs() -> None:
    params, x = SamplingParams(temperature=1, top_p=1), logits(*[0.0] * 50)
    assert picks(params, x, 30, seed=7) == picks(params, x, 30, seed=7)
    assert picks(params, x, 30, seed=7) != picks(params, x, 30, seed=8)
    assert picks(params, x, 30, seed=-1) == picks(params, x, 30, seed=-1)
    other = SamplingParams(temperature=1, top_p=1, stream=1)
    assert picks(params, x, 30, seed=7) != picks(other, x, 30, seed=7)


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=600),
    st.floats(0.05, 2),
    st.floats(0, 1),
    st.integers(0, 40),
)
def test_the_set_is_the_smallest_that_reaches_top_p(
    values: list[float], temperature: float, top_p: float, top_k: int
) -> None:
    x = logits(*values)
    ids, p = distribution(x, SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k))
    assert len(ids) == len(set(ids.tolist())) >= 1
    assert abs(p.sum() - 1) < 1e-9

    # The definition, slowly: sort, cut to top_k, renormalise, take until the sum reaches top_p.
    full = np.exp((x.astype(np.float64) - x.max()) / temperature)
    order = np.argsort(-full, kind="stable")[: top_k or None]
    q = full[order] / full[order].sum()
    wanted = len(q) if top_p == 1 else int(np.searchsorted(np.cumsum(q), top_p)) + 1
    assert abs(len(ids) - min(wanted, len(q))) <= 1  # a rounding error may move the border by one
    if top_p == 1 and top_k == 0:
        assert ids.tolist() == list(range(len(x)))
    else:
        assert np.allclose(np.sort(full[ids])[::-1], full[order[: len(ids)]])


def test_top_k_one_is_greedy() -> None:
    assert picks(SamplingParams(temperature=2, top_p=1, top_k=1), logits(1, 3, 2), 9) == [1] * 9


def test_penalties() -> None:
    x = logits(2, -2, 1)
    out = penalize(x, [0, 0, 1], SamplingParams(repeat_penalty=2))
    assert out.tolist() == [1, -4, 1]
    out = penalize(x, [0, 0, 1], SamplingParams(frequency_penalty=0.5, presence_penalty=0.25))
    assert out.tolist() == [0.75, -2.75, 1]
    assert x.tolist() == [2, -2, 1]


@pytest.mark.parametrize("bad", [logits(1, np.nan, 0), logits(np.inf, 1), logits(-np.inf, -np.inf)])
def test_logits_that_are_no_numbers_are_refused(bad: np.typing.NDArray[np.float32]) -> None:
    with pytest.raises(DecoderFailed, match="no numbers"):
        picks(SamplingParams(), bad, 1)
