"""Logit bias and penalties, which are applied before candidates are selected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serve.decoder import Logits
from serve.request import SamplingParams
from turbopilot.base.errors import InvalidRequest


class LogitBias:
    """Amounts that a request adds to individual logits.

    Args:
        pairs: (token id, amount); the amounts of repeated ids are added up.

    Raises:
        InvalidRequest: an amount is NaN or plus infinity.
    """

    def __init__(self, pairs: Sequence[tuple[int, float]]) -> None:
        if any(math.isnan(b) or b == math.inf for _, b in pairs):
            raise InvalidRequest(
                "a bias must be a finite number, or minus infinity (false) to forbid the token",
                param="logit_bias",
            )
        self._ids = np.array([i for i, _ in pairs], dtype=np.int64)
        self._amounts = np.array([b for _, b in pairs], dtype=np.float32)

    def add_to(self, logits: Logits) -> None:
        """Add the amounts to `logits` in place; out-of-vocabulary ids are ignored, as in llama.cpp."""
        known = (self._ids >= 0) & (self._ids < len(logits))
        np.add.at(logits, self._ids[known], self._amounts[known])


def counted_window(history: Sequence[int], repeat_last_n: int) -> Sequence[int]:
    """Return the last `repeat_last_n` tokens of the history, to which penalties apply: 0 is none, -1 all."""
    if repeat_last_n == 0:
        return ()
    return history if repeat_last_n < 0 else history[-repeat_last_n:]


def penalize(logits: Logits, window: Sequence[int], params: SamplingParams) -> None:
    """Apply the penalties to the logits of the window's tokens, in place.

    Source: llama_sampler_penalties_apply in llama.cpp's src/llama-sampler.cpp.
    """
    ids, n = _counts(window)
    if not len(ids):
        return
    seen = logits[ids]
    seen = np.where(seen > 0, seen / params.repeat_penalty, seen * params.repeat_penalty)
    logits[ids] = seen - params.frequency_penalty * n - params.presence_penalty


def _counts(window: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the distinct tokens of the window and the number of occurrences of each."""
    counts = Counter(window)
    ids = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
    return ids, np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
