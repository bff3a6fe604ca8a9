"""Choose the next token from logits, in numpy; the seed decides everything.

- shaping: logit bias and penalties
- candidates: the tokens that may be chosen and their weights: temperature, top_k, top_p, min_p
- infill: the same for fill-in-the-middle, with tokens that end generation merged
- sampler: the choices of one sequence, in order
- logprobs: log probabilities before any sampling parameter
"""

from serve.sampling.candidates import distribution
from serve.sampling.logprobs import logprobs
from serve.sampling.sampler import Sampler, seed_sequence
from serve.sampling.shaping import penalize

__all__ = ["Sampler", "distribution", "logprobs", "penalize", "seed_sequence"]
