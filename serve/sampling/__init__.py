"""Choice of the next token from logits, in numpy; the logits and the seed determine the result.

- shaping: logit bias and penalties
- candidates: temperature, top_k, top_p and min_p: the tokens that may be chosen, with their weights
- healing: the first tokens, which re-spell the text before the cursor
- infill: llama.cpp's further selection of candidates for fill-in-the-middle
- sampler: the choices of one sequence, in order; log probabilities before any sampling parameter
"""

from serve.sampling.sampler import Sampler, logprobs, seed_sequence, unscored

__all__ = ["Sampler", "logprobs", "seed_sequence", "unscored"]
