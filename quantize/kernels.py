"""llama.cpp's kernels for prefill, by type and processor.

When llama.cpp loads a model, it repacks the weights of some types for the processor's widest instructions; see
turbopilot.catalog.prompt_speed for the measured effect. Decode is limited by memory bandwidth, so that fewer bits are
faster.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

# Base type → sets of processor features, each of which is sufficient. Matrices need a multiple of 8 rows.
# Source: ggml-cpu/repack.cpp, ggml_repack_get_optimal_repack_type.
_REPACKED: Final[dict[str, tuple[Set[str], ...]]] = {
    **dict.fromkeys(("Q4_0", "Q4_K", "IQ4_NL"), ({"avx2"}, {"neon", "dotprod"})),
    **dict.fromkeys(("Q5_K", "Q6_K"), ({"neon", "dotprod"},)),
    "MXFP4": ({"avx2"},),
    "Q2_K": ({"avx512f"},),
}
# Types without a matrix kernel for prefill: IQ1_M has a kernel for single tokens only, TQ1_0 and TQ2_0 have none.
# F16, BF16 and F32 use cuBLAS. Source: ggml-cuda/mmq.cu, ggml_cuda_should_use_mmq.
_SLOW_ON_CUDA: Final = {"IQ1_M", "TQ1_0", "TQ2_0"}


def repacked(base: str, features: Set[str]) -> bool:
    """Return whether a CPU with these features has a repacked kernel for the type."""
    return any(enough <= features for enough in _REPACKED.get(base, ()))


def fast_on_cuda(base: str) -> bool:
    """Return whether CUDA has a matrix kernel for prefill in the type."""
    return base not in _SLOW_ON_CUDA
