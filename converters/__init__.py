"""Conversion of Hugging Face checkpoints, PEFT adapters and the original TurboPilot's ggml files to GGUF.

CodeGen can be exported as GPT-J.

>>> from pathlib import Path
>>> from converters import convert
>>> report = convert(Path("codegen-350M-mono"), Path("codegen.gguf"), dtype="f16")  # doctest: +SKIP
"""

from converters.adapter import adapter_dry_run, convert_adapter
from converters.adapter_config import is_adapter_folder, read_settings
from converters.hf_export import export_gptj
from converters.legacy_ggml import MODEL_TYPES
from converters.pipeline import ConversionReport, convert
from converters.prepare import ConversionOptions, dry_run, expected, planned_geometry

__all__ = [
    "MODEL_TYPES",
    "ConversionOptions",
    "ConversionReport",
    "adapter_dry_run",
    "convert",
    "convert_adapter",
    "dry_run",
    "expected",
    "export_gptj",
    "is_adapter_folder",
    "planned_geometry",
    "read_settings",
]
