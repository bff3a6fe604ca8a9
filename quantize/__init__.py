"""GGUF → smaller GGUF, by llama.cpp's own quantizer.

>>> from pathlib import Path
>>> from quantize import quantize
>>> report = quantize(Path("codegen-f16.gguf"), Path("codegen-q4_k_m.gguf"), "Q4_K_M")  # doctest: +SKIP
"""

from quantize.recipes import RECIPES, Recipe, find_recipe
from quantize.run import quantize
from quantize.summary import QuantizeReport

__all__ = ["RECIPES", "QuantizeReport", "Recipe", "find_recipe", "quantize"]
