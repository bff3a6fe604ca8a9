"""Log probabilities of tokens, before any sampling parameter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serve.decoder import Logits
from serve.request import ChosenToken, TokenLogprob
from serve.sampling.candidates import largest


def logprobs(logits: Logits, token: int, n: int, piece: Callable[[int], bytes]) -> ChosenToken:
    """Return the chosen token and the n likeliest, each with its log probability.

    Args:
        logits: (V,), as the model gave them; not changed.
        token: the chosen one.
        n: how many of the likeliest; tokens that the model makes impossible are left out.
        piece: the bytes of a token.
    """
    x = logits.astype(np.float64)
    x -= x.max()
    log_sum = float(np.log(np.exp(x).sum()))

    def scored(id_: int) -> TokenLogprob:
        return TokenLogprob(id_, piece(id_), float(x[id_]) - log_sum)

    likeliest = largest(logits, n) if n > 0 else ()
    return ChosenToken(scored(token), tuple(scored(int(i)) for i in likeliest))
