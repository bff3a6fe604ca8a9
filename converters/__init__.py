"""Conversion of Hugging Face checkpoints and the original TurboPilot's ggml files to GGUF, and of CodeGen to GPT-J.

>>> from pathlib import Path
>>> from converters import convert
>>> report = convert(Path("codegen-350M-mono"), Path("codegen.gguf"), dtype="f16")  # doctest: +SKIP
"""

from converters.hf_export import export_gptj
from converters.legacy_ggml import MODEL_TYPES
from converters.pipeline import ConversionReport, convert
from converters.prepare import ConversionOptions, dry_run, expected, planned_geometry

__all__ = [
    "MODEL_TYPES",
    "ConversionOptions",
    "ConversionReport",
    "convert",
    "dry_run",
    "expected",
    "export_gptj",
    "planned_geometry",
]
