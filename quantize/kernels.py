"""Which types a processor is fast with: data on llama.cpp's kernels.

A prompt is computed many tokens at a time. llama.cpp rearranges the weights of some types when it loads them
("repacks"), so that a processor's widest instructions find them in order; how much it helps is measured
(turbopilot.catalog.prompt_speed). Single tokens are limited by memory: there fewer bits are faster.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

# Base type → each set of features that is enough. Source: ggml-cpu/repack.cpp,
# ggml_repack_get_optimal_repack_type; matrices need a multiple of 8 rows.
_REPACKED: Final[dict[str, tuple[Set[str], ...]]] = {
    "Q4_0": ({"avx2"}, {"neon", "dotprod"}),
    "Q4_K": ({"avx2"}, {"neon", "dotprod"}),
    "IQ4_NL": ({"avx2"}, {"neon", "dotprod"}),
    "MXFP4": ({"avx2"},),
    "Q2_K": ({"avx512f"},),
    "Q5_K": ({"neon", "dotprod"},),
    "Q6_K": ({"neon", "dotprod"},),
}
# No matrix kernel for prompts: IQ1_M has one for single tokens only, TQ1_0 and TQ2_0 have none.
# Source: ggml-cuda/mmq.cu, ggml_cuda_should_use_mmq. F16, BF16 and F32 go to cuBLAS.
_SLOW_ON_CUDA: Final = {"IQ1_M", "TQ1_0", "TQ2_0"}


def repacked(base: str, features: Set[str]) -> bool:
    """Return whether a processor with such features has a kernel of the type's own for prompts."""
    return any(enough <= features for enough in _REPACKED.get(base, ()))


def fast_on_cuda(base: str) -> bool:
    """Return whether CUDA computes prompts in the type itself."""
    return base not in _SLOW_ON_CUDA
