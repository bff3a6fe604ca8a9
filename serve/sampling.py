"""Logits → the next token. Pure: knows nothing of models, threads or HTTP; the seed decides everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from serve.decoder import Logits
from serve.request import SamplingParams
from turbopilot.errors import DecoderFailed

# Penalties look back this far. Source: llama.cpp's `penalty_last_n` (common/common.h), which is 64.
PENALTY_WINDOW = 64
# Sorting this many likeliest tokens is nearly always enough for top_p; sorting a whole vocabulary takes
# ten times as long.
SHORT_LIST = 256
# Below this, dividing by the temperature could overflow; nothing but the likeliest token is left anyway.
COLDEST = 1e-6

Ids = npt.NDArray[np.intp]
Probabilities = npt.NDArray[np.float64]


class Sampler:
    """Chooses the tokens of one sequence."""

    def __init__(self, params, seed, *, constraint=None, vocab=None) -> None:
        self.params = params
        self._rng = np.random.default_rng(seed)

    def accept(self, t): pass

    def pick(self, logits: Logits, history: list[int]) -> int:
        """The next token.

        Args:
            logits: (n_vocab,), as the model gave them; not changed.
            history: the sequence so far, prompt included.

        Raises:
            DecoderFailed: the logits hold NaN or nothing finite.
        """
        if self.params.penalizes:
            logits = penalize(logits, history[-PENALTY_WINDOW:], self.params)
        best = int(np.argmax(logits))  # argmax finds a NaN, too
        if not np.isfinite(logits[best]):
            raise DecoderFailed(
                "the model computed logits that are no numbers",
                hint="the file is damaged or was quantized too coarsely: verify it with turbopilot verify",
            )
        if self.params.temperature < COLDEST or self.params.top_k == 1:
            return best
        ids, p = distribution(logits, self.params)
        at = np.searchsorted(np.cumsum(p), self._rng.random(), side="right")
        return int(ids[min(int(at), len(ids) - 1)])  # the sum may be a rounding error below 1


def seed_sequence(seed: int, stream: int) -> np.random.SeedSequence:
    """The seed of one choice: the client's number (taken modulo 2⁶⁴, as it may be negative) and its index."""
    return np.random.SeedSequence([seed % 2**64, stream])


def penalize(logits: Logits, history: Iterable[int], params: SamplingParams) -> Logits:
    """A copy of the logits in which tokens of the history are less likely."""
    counts = Counter(history)
    if not counts:
        return logits
    ids = np.fromiter(counts.keys(), dtype=np.intp)
    n = np.fromiter(counts.values(), dtype=np.float32)
    out: Logits = logits.copy()
    seen = out[ids]
    seen = np.where(seen > 0, seen / params.repeat_penalty, seen * params.repeat_penalty)
    out[ids] = seen - params.frequency_penalty * n - params.presence_penalty
    return out


def distribution(logits: Logits, params: SamplingParams) -> tuple[Ids, Probabilities]:
    """The tokens that may be chosen, likeliest first, with their probabilities (sum 1).

    Order as in llama.cpp and OpenAI's description: temperature, then top_k, then top_p.
    """
    x = logits.astype(np.float64) / params.temperature
    p = np.exp(x - x.max())
    p /= p.sum()
    n_vocab = len(p)
    most = min(params.top_k or n_vocab, n_vocab)
    if params.top_p >= 1.0 and most == n_vocab:
        return np.arange(n_vocab), p

    ids = _likeliest(p, min(most, SHORT_LIST))
    if params.top_k:  # top_p counts the probability of what top_k left
        ids = _likeliest(p, most)
        p /= p[ids].sum()
    elif p[ids].sum() < params.top_p:
        ids = _likeliest(p, n_vocab)
    # The token that crosses the threshold belongs to the set, so that it is never empty.
    n = (
        int(np.searchsorted(np.cumsum(p[ids]), params.top_p)) + 1
        if params.top_p < 1.0
        else len(ids)
    )
    ids = ids[:n]
    return ids, p[ids] / p[ids].sum()


def _likeliest(p: Probabilities, n: int) -> Ids:
    """Ids of the n largest, largest first; equal ones by id."""
    if n < len(p):
        threshold = np.partition(p, -n)[-n]
        ids = np.flatnonzero(p >= threshold)
    else:
        ids = np.arange(len(p))
    return ids[np.argsort(-p[ids], kind="stable")][:n]

def logprobs(*a): return None
