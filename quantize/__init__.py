"""Quantize GGUF files with llama.cpp's quantizer.

>>> from pathlib import Path
>>> from quantize import quantize
>>> report = quantize(Path("codegen-f16.gguf"), Path("codegen-q4_k_m.gguf"), "Q4_K_M")  # doctest: +SKIP
"""

from quantize.options import Override, QuantizeOptions, find_tensor_type, parse_override
from quantize.preview import Preview, QuantizedTensor
from quantize.quantizer import QuantizeReport, plan, quantize
from quantize.recipes import RECIPES, Recipe, find_recipe

__all__ = [
    "RECIPES",
    "Override",
    "Preview",
    "QuantizeOptions",
    "QuantizeReport",
    "QuantizedTensor",
    "Recipe",
    "find_recipe",
    "find_tensor_type",
    "parse_override",
    "plan",
    "quantize",
]  # fmt: skip
