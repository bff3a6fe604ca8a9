"""What the model alone thinks of a token: log probabilities before any sampling parameter. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serve.decoder import Logits
from serve.request import ChosenToken, TokenLogprob
from serve.sampling.candidates import largest


def logprobs(logits: Logits, token: int, n: int, piece: Callable[[int], bytes]) -> ChosenToken:
    """The chosen token and the n likeliest, each with its log probability.

    Args:
        logits: (V,), as the model gave them; not changed.
        token: the one chosen.
        n: how many of the likeliest to tell; 0 is none. Those that the model makes impossible are never among them.
        piece: the bytes of a token.
    """
    x = logits.astype(np.float64)
    x -= x.max()
    log_sum = float(np.log(np.exp(x).sum()))

    def told(id_: int) -> TokenLogprob:
        return TokenLogprob(id_, piece(id_), float(x[id_]) - log_sum)

    likeliest = largest(logits, n) if n > 0 else ()
    return ChosenToken(told(token), tuple(told(int(i)) for i in likeliest))
