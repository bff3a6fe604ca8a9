"""Hugging Face checkpoints → GGUF (or, for CodeGen, a GPT-J checkpoint).

>>> from pathlib import Path
>>> from converters import convert
>>> report = convert(Path("codegen-350M-mono"), Path("codegen.gguf"), dtype="f16")  # doctest: +SKIP
"""

from converters.hf_export import export_gptj
from converters.pipeline import ConversionReport, convert, dry_run

__all__ = ["ConversionReport", "convert", "dry_run", "export_gptj"]
