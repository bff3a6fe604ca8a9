"""Mirostat: instead of a share of the tokens, a surprise is held. Pure but for the one number it learns.

Source: Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity" (2020), as in
llama_sampler_mirostat_apply and llama_sampler_mirostat_v2_apply of llama.cpp's src/llama-sampler.cpp: only the
temperature comes before it, and top_k, top_p, min_p and typical_p do not apply. Bias and penalties do here.
"""

from __future__ import annotations

import math

import numpy as np

from serve.decoder import Logits
from serve.request import SamplingParams
from serve.sampling.candidates import Ids, Weights, draw, largest, largest_unsorted, weights_of

# Version 1 fits a power law to this many likeliest tokens. Source: common_sampler_init in llama.cpp's
# common/sampling.cpp.
_FITTED = 100


class Mirostat:
    """One sequence's mirostat."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self.mu = 2.0 * params.mirostat_tau  # the most surprise that a candidate may have, in bits

    def choose(self, logits: Logits, best: int, u: float) -> tuple[int, float]:
        """A token and its surprise among the candidates, in bits; changes nothing.

        Args:
            logits: (V,), bias and penalties applied.
            best: the likeliest token, whose logit is finite.
            u: a number from [0, 1) that decides.
        """
        ids, weights = self.kept(logits, best)
        at = draw(weights, u)
        return int(ids[at]), -math.log2(weights[at] / weights.sum())

    def kept(self, logits: Logits, best: int) -> tuple[Ids, Weights]:
        """The tokens that may be chosen now, with their weights."""
        weights = weights_of(logits, best, self._params.temperature)
        if self._params.mirostat == 1:
            ids = largest_unsorted(logits, self._n_kept(logits))
        else:
            least = float(weights.sum()) * 2.0 ** min(-self.mu, 1000.0)
            ids = np.flatnonzero(weights >= min(least, 1.0))
        return ids, weights[ids].astype(np.float64)

    def accept(self, surprise: float) -> None:
        """A token of this surprise was taken: come nearer to the one wanted."""
        self.mu -= self._params.mirostat_eta * (surprise - self._params.mirostat_tau)

    def _n_kept(self, logits: Logits) -> int:
        """How many tokens version 1 keeps, at least 1: Zipf's exponent is estimated, then solved for k."""
        n_vocab = len(logits)
        ids: Ids = largest(logits, _FITTED)
        if len(ids) < 2:
            return 1
        x = logits[ids].astype(np.float64) / self._params.temperature
        i = np.arange(1, len(ids))
        t = np.log((i + 1) / i)
        exponent = float((t * (x[:-1] - x[1:])).sum() / (t * t).sum())
        if exponent <= 0.0:  # all alike
            return n_vocab
        epsilon = exponent - 1.0
        scale = (
            epsilon / (1.0 - n_vocab**-epsilon) if abs(epsilon) > 1e-9 else 1.0 / math.log(n_vocab)
        )
        log_k = (math.log(scale) + self.mu * math.log(2.0)) / exponent
        return min(max(int(math.exp(min(log_k, 50.0))), 1), n_vocab)
