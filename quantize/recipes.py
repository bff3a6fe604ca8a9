"""File types and tensor types that llama.cpp can write.

Source: llama.h, `enum llama_ftype`, and llama-quant.cpp, `llama_ftype_get_default_type`; a test compares the numbers
with those of llama_cpp. Bits per weight are those of the base type; mixtures (…_M, …_L) use more for some tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.formats.ggml_types import GGML_TYPES


@dataclass(frozen=True, slots=True)
class Recipe:
    """A file type: llama.cpp's name and number, the ggml type of most matrices, and its bits per weight.

    `imatrix` is "needed", "helps" (llama.cpp weights rounding errors with it), or "" if it has no effect.
    """

    name: str
    ftype: int
    base: str
    bits: float
    imatrix: str
    advice: str

    @property
    def needs_imatrix(self) -> bool:
        """Whether llama.cpp refuses the file type without an importance matrix."""
        return self.imatrix == "needed"


RECIPES: tuple[Recipe, ...] = (
    Recipe("F32", 0, "F32", 32, "", "exact; four times the size of Q8_0"),
    Recipe("F16", 1, "F16", 16, "", "same precision as most checkpoints"),
    Recipe("BF16", 32, "BF16", 16, "", "F32's range, less precise than F16"),
    Recipe("Q8_0", 7, "Q8_0", 8.5, "", "no visible loss"),
    Recipe("Q6_K", 18, "Q6_K", 6.56, "helps", "nearly lossless"),
    Recipe("Q5_K_M", 17, "Q5_K", 5.5, "helps", "very small loss"),
    Recipe("Q5_K_S", 16, "Q5_K", 5.5, "helps", "very small loss, a little smaller"),
    Recipe("Q5_1", 9, "Q5_1", 6, "helps", "older; prefer Q5_K_M"),
    Recipe("Q5_0", 8, "Q5_0", 5.5, "helps", "for rows not divisible by 256"),
    Recipe("Q4_K_M", 15, "Q4_K", 4.5, "helps", "recommended: small, little loss"),
    Recipe("Q4_K_S", 14, "Q4_K", 4.5, "helps", "a little smaller than Q4_K_M"),
    Recipe("IQ4_NL", 25, "IQ4_NL", 4.5, "helps", "for rows not divisible by 256"),
    Recipe("IQ4_XS", 30, "IQ4_XS", 4.25, "helps", "like Q4_K_S, a little slower"),
    Recipe("Q4_1", 3, "Q4_1", 5, "helps", "older; prefer Q4_K_M"),
    Recipe("Q4_0", 2, "Q4_0", 4.5, "helps", "fast; the original TurboPilot's"),
    Recipe("Q3_K_L", 13, "Q3_K", 3.44, "helps", "visible loss"),
    Recipe("Q3_K_M", 12, "Q3_K", 3.44, "helps", "visible loss"),
    Recipe("Q3_K_S", 11, "Q3_K", 3.44, "helps", "high loss"),
    Recipe("IQ3_M", 27, "IQ3_S", 3.44, "helps", "better than Q3_K_M; slower on CPUs"),
    Recipe("IQ3_S", 26, "IQ3_S", 3.44, "helps", "like IQ3_M, without the mixture"),
    Recipe("IQ3_XS", 22, "IQ3_S", 3.3, "needed", "between IQ3_S and IQ3_XXS"),
    Recipe("IQ3_XXS", 23, "IQ3_XXS", 3.06, "needed", "only with an importance matrix"),
    Recipe("Q2_K", 10, "Q2_K", 2.63, "helps", "high loss; if nothing else fits"),
    Recipe("Q2_K_S", 21, "Q2_K", 2.63, "needed", "high loss"),
    Recipe("IQ2_M", 29, "IQ2_S", 2.5, "needed", "high loss"),
    Recipe("IQ2_S", 28, "IQ2_XS", 2.5, "needed", "high loss"),
    Recipe("IQ2_XS", 20, "IQ2_XS", 2.31, "needed", "very high loss"),
    Recipe("IQ2_XXS", 19, "IQ2_XXS", 2.06, "needed", "very high loss"),
    Recipe("IQ1_M", 31, "IQ1_M", 1.75, "needed", "for very large models"),
    Recipe("IQ1_S", 24, "IQ1_S", 1.56, "needed", "for very large models"),
    Recipe("TQ2_0", 37, "TQ2_0", 2.06, "", "for models with ternary weights"),
    Recipe("TQ1_0", 36, "TQ1_0", 1.69, "", "for models with ternary weights"),
    Recipe("Q2_0", 41, "Q2_0", 2.25, "", "for models with two-bit weights"),
    Recipe("Q1_0", 40, "Q1_0", 1.13, "", "for models with one-bit weights"),
    Recipe("MXFP4_MOE", 38, "MXFP4", 4.25, "", "for mixture-of-experts models"),
)

# Aliases of llama-quantize.
_ALIASES: Final = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def find_recipe(name: str) -> Recipe:
    """Return the file type with a name in any letter case; raise InvalidInput if there is none."""
    recipes = {recipe.name: recipe for recipe in RECIPES}
    if found := recipes.get(_ALIASES.get(name.upper(), name.upper())):
        return found
    raise InvalidInput(f"{name}: no such quantization type", hint=did_you_mean(name, recipes))


# Types for activations (Q8_1, Q8_K), integers, and NVFP4, which only converters write.
_NOT_WRITTEN: Final = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "NVFP4"}
TENSOR_TYPES: Final = {
    name: number for number, (name, _, _) in GGML_TYPES.items() if name not in _NOT_WRITTEN
}
"""ggml types that the quantizer can write, and their numbers."""


# Source: llama-quant.cpp, tensor_requires_imatrix; a test compares this list with llama.cpp.
NEED_IMATRIX: Final = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
# llama.cpp does not require a matrix for these tensors, but ggml aborts without one for some types
# (ggml.c, ggml_quantize_requires_imatrix).
_NOT_ASKED: Final = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
_ABORT: Final = ("IQ2_XXS", "IQ2_XS", "IQ1_S")


def needs_imatrix(tensor: str, type_name: str, recipe: str) -> bool:
    """Return whether llama.cpp refuses or aborts on this tensor in this type without an importance matrix."""
    if tensor in _NOT_ASKED:
        return type_name in _ABORT
    return type_name in NEED_IMATRIX or (recipe == "Q2_K_S" and type_name == "Q2_K")
