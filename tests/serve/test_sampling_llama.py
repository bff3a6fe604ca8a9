"""The sampler's candidates equal those of llama.cpp's samplers, applied in our order."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
import pytest

from serve.decoder import Logits
from serve.request import SamplingParams
from serve.sampling.candidates import weights_of
from serve.sampling.infill import certain_or_end
from tests.serve.test_sampling import distribution, model_like, penalized
from tests.support.fakes import FakeDecoder

TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Theirs:
    def __init__(self, *samplers: Any) -> None:
        self.chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        for sampler in samplers:
            llama_cpp.llama_sampler_chain_add(self.chain, sampler)

    def apply(self, logits: Logits) -> tuple[Any, int]:
        """Return the remaining candidates (ids, logits, probabilities) and the position of the selected token."""
        data = np.zeros(len(logits), dtype=TOKEN_DATA)
        data["id"], data["logit"] = np.arange(len(logits)), logits
        array = llama_cpp.llama_token_data_array(
            data.ctypes.data_as(llama_cpp.llama_token_data_p), len(data), -1, False
        )
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        return data[: array.size], int(array.selected)

    def __del__(self) -> None:
        llama_cpp.llama_sampler_free(self.chain)


def ours(logits: Logits, **params: Any) -> set[int]:
    settings = {"top_p": 1.0, "temperature": 1.0, **params}
    return set(distribution(logits, SamplingParams(**settings))[0].tolist())


def theirs(logits: Logits, *samplers: Any) -> set[int]:
    return set(Theirs(*samplers).apply(logits)[0]["id"].tolist())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_vocab", [17, 3000, 49_152])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_each_sampler_keeps_the_same_tokens_as_llama_cpp(
    seed: int, n_vocab: int, temperature: float
) -> None:
    x = model_like(n_vocab, seed)

    def temp() -> Any:
        return llama_cpp.llama_sampler_init_temp(temperature)

    top_k = llama_cpp.llama_sampler_init_top_k
    top_p = llama_cpp.llama_sampler_init_top_p
    min_p = llama_cpp.llama_sampler_init_min_p
    t = {"temperature": temperature}
    assert ours(x, **t, top_k=12) == theirs(x, temp(), top_k(12))
    assert ours(x, **t, top_p=0.83) == theirs(x, temp(), top_p(0.83, 1))
    assert ours(x, **t, min_p=0.07) == theirs(x, temp(), min_p(0.07, 1))
    assert ours(x, **t, top_k=30, top_p=0.9, min_p=0.03) == theirs(
        x, temp(), top_k(30), top_p(0.9, 1), min_p(0.03, 1)
    )


@pytest.mark.parametrize("last_n", [1, 5, 64])
def test_penalties_equal_llama_cpps(last_n: int) -> None:
    history = np.random.default_rng(0).integers(0, 40, 100).tolist()
    x = model_like(50)
    params = SamplingParams(
        repeat_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.4, repeat_last_n=last_n
    )
    chain = Theirs(llama_cpp.llama_sampler_init_penalties(50, last_n, 1.3, 0.2, 0.4))
    for token in history:
        llama_cpp.llama_sampler_accept(chain.chain, token)
    left, _ = chain.apply(x)
    assert np.allclose(left["logit"], penalized(x, history[-last_n:], params), atol=1e-5)


class Words(FakeDecoder):
    """Vocabulary read from a llama.cpp vocabulary pointer."""

    def __init__(self, vocab: Any) -> None:
        super().__init__()
        self.vocab = vocab
        self.n = int(llama_cpp.llama_vocab_n_tokens(vocab))

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(512)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, 512, 0, False)
        return buffer.raw[:n]

    def is_eog(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))


def test_infill_keeps_the_same_tokens_as_llama_cpp(vocab: Any) -> None:
    words = Words(vocab)
    ends = [t for t in range(words.n) if words.is_eog(t)]
    chain = Theirs(
        llama_cpp.llama_sampler_init_top_k(30), llama_cpp.llama_sampler_init_infill(vocab)
    )
    seen = set()
    for seed in range(300):
        x = model_like(words.n, seed).copy()
        x[x.argsort()[-8:]] += np.linspace(0, seed % 5, 8, dtype=np.float32)
        x[ends] = x.max() + np.random.default_rng(seed).uniform(-12, 2, len(ends))
        ids = np.argsort(-x, kind="stable")[:30]
        weights = weights_of(x, int(ids[0]), 1.0)[ids].astype(np.float64)
        kept = [int(ids[i]) for i in certain_or_end(ids.tolist(), weights, words)]
        left = chain.apply(x)[0]["id"].tolist()
        if not kept or (len(left) == 1 and words.is_eog(left[0])):
            assert words.is_eog(left[0])  # llama.cpp may choose another end token
            assert all(map(words.is_eog, kept))
        else:
            assert kept == left
        seen.add((len(left), words.is_eog(left[0])))
    assert len(seen) > 3  # one token, several, and an end
