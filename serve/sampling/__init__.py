"""Logits → the next token, in numpy. Knows nothing of models, threads, llama.cpp or HTTP; the seed decides everything.

- shaping: what is added to and subtracted from the logits before anything else: bias and penalties
- candidates: which tokens may be chosen, with what weight: temperature, top_k, typical_p, top_p, min_p
- mirostat: the same where the surprise is held instead
- infill: the same where ends are merged, for fill-in-the-middle
- sampler: one sequence's choices, in order
- logprobs: what the model alone thinks of a token
- gbnf, gbnf_safety: which grammars may be given to llama.cpp
"""

from serve.sampling.candidates import distribution
from serve.sampling.infill import Vocabulary
from serve.sampling.logprobs import logprobs
from serve.sampling.sampler import Sampler, seed_sequence
from serve.sampling.shaping import penalize

__all__ = ["Sampler", "Vocabulary", "distribution", "logprobs", "penalize", "seed_sequence"]
