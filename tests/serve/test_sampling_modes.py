"""The sampler with infill and with JSON schemas."""

from __future__ import annotations

import numpy as np
import pytest

from serve.decoder import Logits
from serve.request import SamplingParams
from serve.sampling import Sampler, seed_sequence
from serve.sampling.infill import certain_or_end, likeliest_end
from tests.serve.test_sampling import logits, model_like
from tests.support.fakes import FakeDecoder
from turbopilot.base.errors import InvalidRequest


class Words(FakeDecoder):
    """Vocabulary of the given texts; "" ends generation."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts = texts

    def piece(self, token: int) -> bytes:
        return self.texts[token].encode()

    def is_eog(self, token: int) -> bool:
        return not self.texts[token]


class Only:
    """Constraint that always allows the same tokens."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = list(tokens)
        self.accepted: list[int] = []
        self.n_masked = 0

    def allows(self, token: int) -> bool:
        return token in self.tokens

    def mask(self, logits: Logits) -> Logits:
        self.n_masked += 1
        out = np.full_like(logits, -np.inf)
        out[self.tokens] = logits[self.tokens]
        return out

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_infill_ends_if_all_end_tokens_together_are_likely() -> None:
    words = Words("a", "b", "", "")
    some = np.array([0.4, 0.3, 0.2, 0.1])
    assert certain_or_end(range(4), some, words) == [2, 3]
    few = np.array([0.6, 0.398, 0.001, 0.001])
    assert certain_or_end(range(4), few, words) == [0, 1, 2, 3]


def test_infill_merges_tokens_with_a_common_prefix() -> None:
    words = Words("fo", "foo", "bar", "foobar")
    # All but one begin with "fo"; the other is then below the minimum probability.
    assert certain_or_end(range(4), np.array([0.3, 0.2, 0.18, 0.32]), words) == [0]
    assert certain_or_end(range(4), np.array([0.2, 0.05, 0.4, 0.35]), words) == [2, 3]
    assert certain_or_end([0, 2], np.array([0.5, 0.5]), words) == [0, 1]


def test_infill_ends_if_no_token_is_likely_enough() -> None:
    words = Words(*(chr(97 + i) for i in range(20)), "")
    params = SamplingParams(temperature=1, top_p=1, infill=True)
    x = logits(*[0.0] * 20, -30)
    sampler = Sampler(params, seed_sequence(0, 0), vocab=words)
    assert sampler.pick(x, []) == 20
    assert likeliest_end(logits(*[0.0] * 20, -np.inf), words) is None
    # If no end token is possible, generation continues.
    assert sampler.pick(logits(*range(20), -np.inf), []) == 19


def test_infill_at_temperature_zero_takes_the_likeliest_kept_token() -> None:
    words = Words("a", "b", "")
    params = SamplingParams(temperature=0, top_p=1, infill=True)
    sampler = Sampler(params, seed_sequence(0, 0), vocab=words)
    assert sampler.pick(logits(2, 1, -20), []) == 0
    assert sampler.pick(logits(2, 1, 1), []) == 2  # an end token, although not the likeliest


def test_vocabulary_is_masked_only_if_the_drawn_token_is_forbidden() -> None:
    only = Only(0, 2)
    params = SamplingParams(temperature=0, schema="…")
    sampler = Sampler(params, seed_sequence(0, 0), constraint=only)
    assert sampler.pick(logits(3, 2, 1), []) == 0
    assert only.n_masked == 0
    assert sampler.pick(logits(0, 2, 1), []) == 2
    assert only.n_masked == 1
    assert only.accepted == []
    sampler.accept(2)
    assert only.accepted == [2]


def test_schema_without_allowed_tokens_raises_invalid_request() -> None:
    sampler = Sampler(SamplingParams(schema="…"), seed_sequence(0, 0), constraint=Only())
    with pytest.raises(InvalidRequest, match="none of the model's tokens"):
        sampler.pick(logits(1, 2), [])


def test_second_draw_with_the_mask_keeps_the_probabilities() -> None:
    x = logits(*[0.0] * 10)  # the first draw is forbidden in most cases
    only = Only(0, 3, 4, 9)
    params = SamplingParams(temperature=1, top_p=1, schema="…")
    sampler = Sampler(params, seed_sequence(1, 0), constraint=only)
    n, counts = 20_000, np.zeros(10)
    for _ in range(n):
        token = sampler.pick(x, [])
        sampler.accept(token)
        counts[token] += 1
    assert counts.sum() == counts[[0, 3, 4, 9]].sum()
    assert np.abs(counts[[0, 3, 4, 9]] / n - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / n)


def test_mask_at_one_token_does_not_change_other_tokens() -> None:
    params = SamplingParams(temperature=1, top_p=1, schema="…")

    def generate(*at_seven: int) -> list[int]:
        only = Only()
        sampler = Sampler(params, seed_sequence(4, 0), constraint=only)
        found = []
        for i in range(20):
            only.tokens = list(at_seven if i == 7 else range(50))
            found.append(sampler.pick(model_like(50, i), []))
            sampler.accept(found[-1])
        return found

    free = generate(*range(50))
    other = (free[7] + 1) % 50
    assert generate(other) == [*free[:7], other, *free[8:]]
