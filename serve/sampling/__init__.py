"""Choose the next token from logits, in numpy; the seed decides everything.

- shaping: logit bias and penalties
- candidates: the tokens that may be chosen and their weights: temperature, top_k, top_p, min_p
- infill: the same for fill-in-the-middle, with tokens that end generation merged
- sampler: the choices of one sequence, in order; log probabilities before any sampling parameter
"""

from serve.sampling.sampler import Sampler, logprobs, seed_sequence

__all__ = ["Sampler", "logprobs", "seed_sequence"]
