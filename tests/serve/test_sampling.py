from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.decoder import Logits
from serve.request import SamplingParams
from serve.sampling import Sampler, logprobs, seed_sequence
from serve.sampling.candidates import Ids, Weights, candidates, draw, largest
from serve.sampling.shaping import counted_window, penalize
from turbopilot.base.errors import InvalidRequest, UnusableLogits

VALUES = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=600)


def distribution(logits: Logits, params: SamplingParams) -> tuple[Ids, Weights]:
    """Return the tokens that may be chosen, and their probabilities (sum 1)."""
    ids, weights, _ = candidates(logits, params, int(np.argmax(logits)))
    p = weights.astype(np.float64)
    return np.arange(len(p)) if ids is None else ids, p / p.sum()


def penalized(logits: Logits, window: Sequence[int], params: SamplingParams) -> Logits:
    """Return a copy of the logits after the penalties."""
    out: Logits = logits.copy()
    penalize(out, window, params)
    return out


def logits(*values: float) -> Logits:
    x = np.array(values, dtype=np.float32)
    x.setflags(write=False)  # the sampler must not write into llama.cpp's memory
    return x


def model_like(n_vocab: int, seed: int = 0) -> Logits:
    """Return logits with a distribution similar to a language model's."""
    rng = np.random.default_rng(seed)
    rank = 1 + rng.permutation(n_vocab)
    return logits(*(15 - 2 * np.log(rank) + rng.standard_normal(n_vocab)))


def picks(params: SamplingParams, x: Logits, n: int, seed: int = 1) -> list[int]:
    sampler = Sampler(params, seed_sequence(seed, params.stream))
    found = []
    for _ in range(n):
        found.append(sampler.pick(x, []))
        sampler.accept(found[-1])
    return found


def softmax(x: Logits, temperature: float) -> np.typing.NDArray[np.float64]:
    p: np.typing.NDArray[np.float64] = np.exp((x.astype(np.float64) - x.max()) / temperature)
    p /= p.sum()
    return p


def test_temperature_zero_is_greedy() -> None:
    assert picks(SamplingParams(temperature=0), logits(1, 3, 2), 20) == [1] * 20


def test_tiny_temperature_is_greedy_without_overflow() -> None:
    for temperature in (1e-300, 1e-5):
        for min_p in (0.0, 0.1):
            params = SamplingParams(temperature=temperature, top_p=1, min_p=min_p)
            assert picks(params, logits(1, 3, 2), 5) == [1] * 5


@pytest.mark.parametrize("n_more", [0, 3000])  # with and without blocks in `draw`
def test_sampled_frequencies_follow_the_softmax(n_more: int) -> None:
    x = logits(*[-np.inf] * n_more, 0, 1, 2, -np.inf, *[-np.inf] * n_more)
    n = 20_000
    found = np.array(picks(SamplingParams(temperature=1, top_p=1), x, n))
    counts = np.bincount(found - n_more, minlength=4)
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    # Five standard deviations; the seed is fixed, so the test is deterministic.
    assert np.abs(counts[:3] / n - expected).max() < 5 * np.sqrt(0.25 / n)
    assert counts[3] == 0


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=2000), st.floats(0, 0.9999999))
def test_draw_returns_the_position_at_which_the_running_sum_exceeds_u(
    values: list[float], u: float
) -> None:
    weights = np.array(values)
    if weights.sum() == 0:
        weights[-1] = 1
    at = draw(weights, u)
    assert weights[at] > 0
    total = weights.sum()
    assert weights[:at].sum() <= u * total + 1e-9 * total
    assert weights[: at + 1].sum() >= u * total - 1e-9 * total


def test_equal_seeds_repeat_and_other_seeds_and_streams_differ() -> None:
    params, x = SamplingParams(temperature=1, top_p=1), logits(*[0.0] * 50)
    assert picks(params, x, 30, seed=7) == picks(params, x, 30, seed=7)
    assert picks(params, x, 30, seed=7) != picks(params, x, 30, seed=8)
    assert picks(params, x, 30, seed=-1) == picks(params, x, 30, seed=-1)
    other = SamplingParams(temperature=1, top_p=1, stream=1)
    assert picks(params, x, 30, seed=7) != picks(other, x, 30, seed=7)


SETTINGS = (
    SamplingParams(temperature=1, top_p=1),
    SamplingParams(temperature=0.8, top_p=0.9, top_k=40),
    SamplingParams(temperature=1, top_p=1, presence_penalty=1.5),
)


@pytest.mark.parametrize("params", SETTINGS)
@given(guess_lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8), hit=st.randoms())
def test_drafts_do_not_change_sampled_tokens(
    params: SamplingParams, guess_lengths: list[int], hit: object
) -> None:
    rows = [model_like(300, i) for i in range(sum(guess_lengths))]
    alone = Sampler(params, seed_sequence(3, 0))
    expected: list[int] = []
    for row in rows:
        expected.append(alone.pick(row, expected))
        alone.accept(expected[-1])

    guessed = Sampler(params, seed_sequence(3, 0))
    got: list[int] = []
    for n in guess_lengths:  # as in the engine: positions in order, up to the first rejected token
        right = hit.randint(0, n)  # type: ignore[attr-defined]
        for _ in range(min(right + 1, n)):
            row = rows[len(got)]
            token = guessed.pick(row, got)
            assert guessed.pick(row, got) == token  # `pick` has no effect on the next `pick`
            guessed.accept(token)
            got.append(token)
    assert got == expected[: len(got)]


def test_pick_without_accept_does_not_change_later_picks() -> None:
    for params in SETTINGS:
        one, other = (Sampler(params, seed_sequence(5, 0)) for _ in range(2))
        for i in range(20):
            one.pick(model_like(200, 1000 + i), [])  # a discarded position
            token = one.pick(model_like(200, i), [])
            assert token == other.pick(model_like(200, i), [])
            one.accept(token)
            other.accept(token)


def test_accepted_token_without_a_draw_uses_a_random_number() -> None:
    params = SamplingParams(temperature=1, top_p=1)
    forced = Sampler(params, seed_sequence(1, 0))
    forced.accept(0)
    x = logits(*[0.0] * 50)
    assert [forced.pick(x, [])] == picks(params, x, 2)[1:]


@given(VALUES, st.floats(0.05, 2), st.floats(0, 1), st.integers(0, 40))
def test_top_p_selects_the_minimal_set(
    values: list[float], temperature: float, top_p: float, top_k: int
) -> None:
    x = logits(*values)
    ids, p = distribution(x, SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k))
    assert len(ids) == len(set(ids.tolist())) >= 1
    assert abs(p.sum() - 1) < 1e-9

    # The definition: sort, cut to top_k, renormalise, take tokens until the sum reaches top_p.
    full = softmax(x, temperature)
    order = np.argsort(-full, kind="stable")[: top_k or None]
    q = full[order] / full[order].sum()
    wanted = len(q) if top_p == 1 else int(np.searchsorted(np.cumsum(q), top_p)) + 1
    got = q[: len(ids)]
    if len(ids) < min(wanted, len(q)):  # rounding may move the border by a negligible probability
        assert q[len(ids) : wanted - 1].sum() < 1e-6
    else:
        assert q[wanted:][: len(ids) - wanted].sum() < 1e-6
    assert np.allclose(np.sort(full[ids])[::-1] / full[ids].sum(), got / got.sum(), atol=1e-7)


@given(VALUES, st.floats(0.05, 2), st.floats(0.001, 1), st.sampled_from([1.0, 0.7]))
def test_min_p_is_relative_to_the_likeliest_token(
    values: list[float], temperature: float, min_p: float, top_p: float
) -> None:
    x = logits(*values)
    params = SamplingParams(temperature=temperature, top_p=top_p, min_p=min_p)
    nucleus = set(distribution(x, SamplingParams(temperature=temperature, top_p=top_p))[0].tolist())
    got = set(distribution(x, params)[0].tolist())
    ratio = np.exp((x.astype(np.float64) - x.max()) / temperature)
    assert got >= {i for i in nucleus if ratio[i] > min_p * 1.0001}
    assert got <= {i for i in nucleus if ratio[i] >= min_p * 0.9999}


@given(VALUES, st.integers(1, 700))
def test_largest_equals_a_full_sort(values: list[float], n: int) -> None:
    x = np.array(values, dtype=np.float32)
    x[::7] = -np.inf
    order = np.argsort(-x, kind="stable")
    expected = [i for i in order[:n].tolist() if x[i] > -np.inf]
    assert largest(x, n).tolist() == expected


@pytest.mark.parametrize("n_vocab", [49_152, 50_003])
def test_candidates_of_large_vocabularies_are_complete(n_vocab: int) -> None:
    x = model_like(n_vocab)
    for temperature in (0.2, 1.0, 2.0):
        p = softmax(x, temperature)
        order = np.argsort(-p, kind="stable")
        for top_p in (0.1, 0.95, 0.999, 0.9999999):
            ids, _ = distribution(x, SamplingParams(temperature=temperature, top_p=top_p))
            wanted = int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1
            assert abs(p[ids].sum() - p[order[:wanted]].sum()) < 2e-6
            assert ids[:100].tolist() == order[: len(ids)][:100].tolist()
    for n in (1, 40, 700, 5000):
        assert largest(x, n).tolist() == np.argsort(-x, kind="stable")[:n].tolist()


def test_top_k_one_is_greedy() -> None:
    assert picks(SamplingParams(temperature=2, top_p=1, top_k=1), logits(1, 3, 2), 9) == [1] * 9


def test_penalties_lower_the_logits_of_repeated_tokens() -> None:
    x = logits(2, -2, 1)
    out = penalized(x, [0, 0, 1], SamplingParams(repeat_penalty=2))
    assert out.tolist() == [1, -4, 1]
    out = penalized(x, [0, 0, 1], SamplingParams(frequency_penalty=0.5, presence_penalty=0.25))
    assert out.tolist() == [0.75, -2.75, 1]
    assert x.tolist() == [2, -2, 1]


def test_penalties_apply_to_the_last_n_tokens() -> None:
    history = [0, 1, 2, 3]
    assert list(counted_window(history, 0)) == []
    assert list(counted_window(history, 2)) == [2, 3]
    assert list(counted_window(history, -1)) == list(counted_window(history, 99)) == history

    x = logits(3, 2.5, 0)

    def greedy(last_n: int) -> int:
        params = SamplingParams(temperature=0, presence_penalty=1, repeat_last_n=last_n)
        return Sampler(params, seed_sequence(0, 0)).pick(x, [0, 2, 2])

    assert [greedy(n) for n in (0, 2, 3, -1)] == [0, 0, 1, 1]


def test_bias_is_added_and_out_of_vocabulary_ids_are_ignored() -> None:
    x = logits(3, 2, 1)
    bias = ((0, -np.inf), (2, 0.75), (2, 0.75), (-1, 100.0), (3, 100.0))
    assert picks(SamplingParams(temperature=0, logit_bias=bias), x, 1) == [2]
    assert 0 not in picks(SamplingParams(temperature=5, top_p=1, logit_bias=bias), x, 200)
    nothing = tuple((i, -np.inf) for i in range(3))
    with pytest.raises(InvalidRequest, match="forbids all tokens"):
        picks(SamplingParams(logit_bias=nothing), x, 1)
    for amount in (np.nan, np.inf):
        with pytest.raises(InvalidRequest):
            picks(SamplingParams(logit_bias=((0, amount),)), x, 1)


@pytest.mark.parametrize("bad", [logits(1, np.nan, 0), logits(np.inf, 1), logits(-np.inf, -np.inf)])
@pytest.mark.parametrize(
    "params",
    [SamplingParams(), SamplingParams(temperature=0), SamplingParams(logit_bias=((0, 1.0),))],
)
def test_nan_and_infinite_logits_are_rejected(bad: Logits, params: SamplingParams) -> None:
    with pytest.raises(UnusableLogits, match="NaN or infinite"):
        picks(params, bad, 1)


@given(VALUES, st.integers(0, 8))
def test_logprobs_equal_the_softmax_of_the_logits(values: list[float], n: int) -> None:
    x = logits(*values)
    token = len(x) // 2
    chosen = logprobs(x, token, n, lambda t: b"%d" % t)
    p = softmax(x, 1.0)
    assert np.isclose(np.exp(chosen.token.logprob), p[token], rtol=1e-9)
    assert (chosen.token.id, chosen.token.data) == (token, b"%d" % token)
    assert [t.id for t in chosen.top] == np.argsort(-x, kind="stable")[:n].tolist()
    assert np.allclose([np.exp(t.logprob) for t in chosen.top], p[[t.id for t in chosen.top]])


def test_logprobs_of_huge_logits_do_not_overflow() -> None:
    chosen = logprobs(logits(1e30, 1e30, -np.inf), 0, 3, lambda t: b"")
    assert np.isclose(chosen.token.logprob, np.log(0.5))
    assert [t.id for t in chosen.top] == [0, 1]


def test_schema_without_constraint_and_infill_without_vocabulary_raise() -> None:
    with pytest.raises(ValueError, match="schema"):
        Sampler(SamplingParams(schema="{}"), seed_sequence(0, 0))
    with pytest.raises(ValueError, match="infill"):
        Sampler(SamplingParams(infill=True), seed_sequence(0, 0))
