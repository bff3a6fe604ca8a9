"""The types in which a single tensor can be written."""

from __future__ import annotations

from typing import Final

from turbopilot.formats.ggml_types import GGML_TYPES

# Types of activations (Q8_1, Q8_K), integers, and NVFP4, which only converters write.
_NOT_WRITTEN: Final = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "NVFP4"}
TENSOR_TYPES: Final = {
    name: number for number, (name, _, _) in GGML_TYPES.items() if name not in _NOT_WRITTEN
}
"""ggml's types that a tensor can be written in, and their numbers."""


# llama-quant.cpp, tensor_requires_imatrix; a test compares it with what llama.cpp refuses.
NEED_IMATRIX: Final = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
# llama.cpp does not demand a matrix for these, but ggml aborts without one for some types
# (ggml.c, ggml_quantize_requires_imatrix).
_NOT_ASKED: Final = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
_ABORT: Final = ("IQ2_XXS", "IQ2_XS", "IQ1_S")


def needs_imatrix(tensor: str, type_name: str, recipe: str) -> bool:
    """Return whether llama.cpp refuses, or aborts on, this tensor in this type without an importance matrix."""
    if tensor in _NOT_ASKED:
        return type_name in _ABORT
    return type_name in NEED_IMATRIX or (recipe == "Q2_K_S" and type_name == "Q2_K")
