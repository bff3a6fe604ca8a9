"""llama.cpp's kernels for prompts, by type and processor.

llama.cpp rearranges ("repacks") the weights of some types at loading for a processor's widest instructions; for the
measured effect see turbopilot.catalog.prompt_speed. Single tokens are limited by memory: fewer bits are faster.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

# Base type → each set of features that is enough. Source: ggml-cpu/repack.cpp,
# ggml_repack_get_optimal_repack_type; matrices need a multiple of 8 rows.
_REPACKED: Final[dict[str, tuple[Set[str], ...]]] = {
    **dict.fromkeys(("Q4_0", "Q4_K", "IQ4_NL"), ({"avx2"}, {"neon", "dotprod"})),
    **dict.fromkeys(("Q5_K", "Q6_K"), ({"neon", "dotprod"},)),
    "MXFP4": ({"avx2"},),
    "Q2_K": ({"avx512f"},),
}
# No matrix kernel for prompts: IQ1_M has one for single tokens only, TQ1_0 and TQ2_0 have none.
# Source: ggml-cuda/mmq.cu, ggml_cuda_should_use_mmq. F16, BF16 and F32 go to cuBLAS.
_SLOW_ON_CUDA: Final = {"IQ1_M", "TQ1_0", "TQ2_0"}


def repacked(base: str, features: Set[str]) -> bool:
    """Return whether a CPU with these features has a repacked kernel for the type."""
    return any(enough <= features for enough in _REPACKED.get(base, ()))


def fast_on_cuda(base: str) -> bool:
    """Return whether CUDA has a matrix kernel for prompts in the type."""
    return base not in _SLOW_ON_CUDA
