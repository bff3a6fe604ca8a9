"""Candidates for fill-in-the-middle: end generation if its end tokens together are likely, else keep likely tokens.

Source, including the constants: llama_sampler_infill_apply in llama.cpp's src/llama-sampler.cpp. Its clients apply it
after top_k and top_p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serve.decoder import Decoder, Logits
from serve.sampling.candidates import Weights, largest

# Maximum number of candidates, since all pairs are compared: llama.cpp's default top_k (common/common.h).
MOST_CANDIDATES = 40
# End tokens are searched among this many likeliest tokens first, then among all.
_NEAR = 256


def certain_or_end(ids: Sequence[int], weights: Weights, vocab: Decoder) -> list[int]:
    """Return the positions of the candidates that may be chosen.

    The list is empty if generation should end but no candidate is an end token.

    Args:
        ids: candidates, likeliest first.
        weights: their weights, not necessarily normalized.
        vocab: gives the tokens' bytes and which tokens end generation.
    """
    n = len(ids)
    p = [float(w) for w in weights / weights.sum()]
    ends = [vocab.is_eog(t) for t in ids]
    p_end = sum(x for x, end in zip(p, ends, strict=True) if end)
    p_text = sum(x for x, end in zip(p, ends, strict=True) if not end)
    if 3 * p_end * n > p_text:
        return [i for i in range(n) if ends[i]]

    alive = _merge_prefixes(p, [vocab.piece(t) for t in ids])
    kept = [i for i in range(n) if ends[i] or (alive[i] and p[i] >= 0.2)]
    n_text = sum(not ends[i] for i in kept)
    if n_text == 0:
        return [i for i in kept if ends[i]][:1]
    least = sum(p[i] for i in kept) / (n_text + 1)
    return [i for i in kept if ends[i] or p[i] >= least]


def _merge_prefixes(p: list[float], pieces: list[bytes]) -> list[bool]:
    """Merge each pair of tokens of which one is a prefix of the other: the likelier one gets both probabilities.

    Changes `p`.

    Returns:
        Whether each token remains.
    """
    alive = [True] * len(p)
    for i, short in enumerate(pieces):
        if not short:
            continue
        for j, other in enumerate(pieces):
            if not alive[i]:
                break
            if i == j or not alive[j] or not other.startswith(short):
                continue
            target, source = (j, i) if p[j] > p[i] else (i, j)
            p[target] += p[source]
            p[source] = 0.0
            alive[source] = False
    return alive


def likeliest_end(logits: Logits, vocab: Decoder) -> int | None:
    """Return the likeliest token that ends generation; None if all such tokens are impossible."""
    for token in largest(logits, _NEAR):
        if vocab.is_eog(int(token)):
            return int(token)
    ends = [t for t in map(int, np.flatnonzero(logits > -np.inf)) if vocab.is_eog(t)]
    return max(ends, key=lambda t: float(logits[t]), default=None)
