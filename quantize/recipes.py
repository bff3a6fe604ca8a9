"""The types that llama.cpp can write, as one table. Data only; imports no llama.cpp.

Source: llama.h, `enum llama_ftype`; a test compares the numbers with llama_cpp's. Bits per weight are
those of the base type; mixtures (…_M, …_L) give some tensors more.
"""

from __future__ import annotations

from dataclasses import dataclass

from turbopilot.errors import InvalidInput, did_you_mean


@dataclass(frozen=True, slots=True)
class Recipe:
    """A file type: `ftype` is llama.cpp's number; `bits` per weight of the base type."""

    name: str
    ftype: int
    bits: float
    advice: str
    needs_imatrix: bool = False


RECIPES: tuple[Recipe, ...] = (
    Recipe("F32", 0, 32, "exact; four times the size of Q8_0"),
    Recipe("F16", 1, 16, "as published checkpoints are"),
    Recipe("BF16", 32, 16, "F32's range, fewer digits than F16"),
    Recipe("Q8_0", 7, 8.5, "no loss that anyone could see"),
    Recipe("Q6_K", 18, 6.56, "nearly lossless"),
    Recipe("Q5_K_M", 17, 5.5, "very small loss"),
    Recipe("Q5_K_S", 16, 5.5, "very small loss, a little smaller"),
    Recipe("Q5_1", 9, 6, "older; prefer Q5_K_M"),
    Recipe("Q5_0", 8, 5.5, "older; prefer Q5_K_M"),
    Recipe("Q4_K_M", 15, 4.5, "the usual choice: small, good"),
    Recipe("Q4_K_S", 14, 4.5, "a little smaller than Q4_K_M"),
    Recipe("IQ4_NL", 25, 4.5, "non-linear steps; good where rows are no multiple of 256"),
    Recipe("IQ4_XS", 30, 4.25, "smaller than Q4_K_S at like quality"),
    Recipe("Q4_1", 3, 5, "older; slow prompts on CPUs"),
    Recipe("Q4_0", 2, 4.5, "fastest on CPUs; the original TurboPilot's type"),
    Recipe("Q3_K_L", 13, 3.44, "visible loss"),
    Recipe("Q3_K_M", 12, 3.44, "visible loss"),
    Recipe("Q3_K_S", 11, 3.44, "much loss"),
    Recipe("IQ3_M", 27, 3.44, "better than Q3_K_M at its size, slower on CPUs"),
    Recipe("IQ3_S", 26, 3.44, "as IQ3_M, without the mixture"),
    Recipe("IQ3_XS", 22, 3.3, "between IQ3_S and IQ3_XXS", needs_imatrix=True),
    Recipe("IQ3_XXS", 23, 3.06, "only with an importance matrix", needs_imatrix=True),
    Recipe("Q2_K", 10, 2.63, "much loss; only where nothing else fits"),
    Recipe("Q2_K_S", 21, 2.63, "much loss", needs_imatrix=True),
    Recipe("IQ2_M", 29, 2.5, "much loss", needs_imatrix=True),
    Recipe("IQ2_S", 28, 2.5, "much loss", needs_imatrix=True),
    Recipe("IQ2_XS", 20, 2.31, "heavy loss", needs_imatrix=True),
    Recipe("IQ2_XXS", 19, 2.06, "heavy loss", needs_imatrix=True),
    Recipe("IQ1_M", 31, 1.75, "for very large models", needs_imatrix=True),
    Recipe("IQ1_S", 24, 1.56, "for very large models", needs_imatrix=True),
    Recipe("TQ2_0", 37, 2.06, "for models trained with ternary weights"),
    Recipe("TQ1_0", 36, 1.69, "for models trained with ternary weights"),
    Recipe("Q2_0", 41, 2.25, "for models trained with two-bit weights"),
    Recipe("Q1_0", 40, 1.13, "for models trained with one-bit weights"),
    Recipe("MXFP4_MOE", 38, 4.25, "for mixture-of-experts models"),
)

# llama-quantize's own shorthands.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def find_recipe(name: str) -> Recipe:
    """The recipe of a type's name, in any case.

    Raises:
        InvalidInput: there is no such type; the hint offers near names.
    """
    wanted = ALIASES.get(name.upper(), name.upper())
    for recipe in RECIPES:
        if recipe.name == wanted:
            return recipe
    raise InvalidInput(
        f"{name}: no such quantization type", hint=did_you_mean(name, [r.name for r in RECIPES])
    )
