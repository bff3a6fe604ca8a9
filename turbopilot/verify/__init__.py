"""Comparison of GGUF files with the checkpoints they were converted from.

PyTorch runs the checkpoint, independently of `converters`.

>>> from pathlib import Path
>>> from turbopilot.verify import verify
>>> [r.passed for r in verify([Path("model.gguf")], Path("codegen-350M-mono"))]  # doctest: +SKIP
[True]
"""

from turbopilot.verify.report import VerifyReport
from turbopilot.verify.verification import VerifyOptions, compare, verify

__all__ = ["VerifyOptions", "VerifyReport", "compare", "verify"]
