"""Tensor types of ggml and their block sizes."""

from __future__ import annotations

from typing import Final

# ggml type → (name, weights in a block, bytes in a block). Source: ggml.c, type_traits; a test compares
# it with gguf.GGML_QUANT_SIZES.
GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
BLOCKS: Final = {name: (weights, size) for name, weights, size in GGML_TYPES.values()}
"""Name of a ggml type → weights and bytes in a block."""
FLOATS: Final = ("F32", "F16", "BF16")

# Types that llama.cpp supports for the KV cache, widest first. Source: kv_cache_types in common/arg.cpp.
CACHE_TYPES: Final = {GGML_TYPES[n][0]: n for n in (0, 1, 30, 8, 7, 6, 3, 2, 20)}


def n_bytes(type_name: str, n_weights: int) -> int:
    """Return the size in bytes of `n_weights` weights, which must fill whole blocks."""
    weights, size = BLOCKS[type_name]
    return n_weights // weights * size
